"""The losses of a recovery against closed forms of torch's distributions."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.functional import cosine_similarity

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.recovery.losses import LOSSES, TaskLoss, mixed
from worker.slimming.scoring.objectives import Batch, log_probability, token_scores

DRAW = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(5, 3, generator=DRAW), torch.randn(5, 3, generator=DRAW)
RIGHT = torch.tensor([0, 2, 1, 1, 0])
TARGETS = torch.randint(0, 2, (5, 3), generator=DRAW).double()


def batch_with(**fields: Any) -> Batch:
    """The fields of a batch that a loss reads."""
    return cast(Batch, SimpleNamespace(**fields))


def divergence(one: Any, other: Any) -> Tensor:
    found: Tensor = kl_divergence(one, other)
    return found


def test_losses_of_labels_are_those_of_categorical_distributions() -> None:
    loss = LOSSES["classification"]
    student, teacher = (Categorical(logits=each) for each in (STUDENT, TEACHER))
    assert loss.from_answers is not None
    given = loss.from_answers(STUDENT, batch_with(right_Q=RIGHT))
    torch.testing.assert_close(given, -student.log_prob(RIGHT))
    torch.testing.assert_close(loss.from_teacher(STUDENT, TEACHER), divergence(teacher, student))


def test_losses_of_several_labels_are_those_of_a_decision_on_each() -> None:
    loss = LOSSES["multi_label"]
    student, teacher = (Bernoulli(logits=each) for each in (STUDENT, TEACHER))
    assert loss.from_answers is not None
    given = loss.from_answers(STUDENT, batch_with(target_EL=TARGETS))
    torch.testing.assert_close(given, -student.log_prob(TARGETS.float()).sum(1))
    torch.testing.assert_close(loss.from_teacher(STUDENT, TEACHER), divergence(teacher, student).sum(1))


def test_losses_of_numbers_and_embeddings_are_distances() -> None:
    numbers = LOSSES["regression"]
    assert numbers.from_answers is not None
    outputs, targets = STUDENT[:, :1], TARGETS[:, :1]
    torch.testing.assert_close(
        numbers.from_answers(outputs, batch_with(target_EL=targets)), (outputs - targets.float()).square().flatten()
    )
    embeddings = LOSSES["embedding"]
    assert embeddings.from_answers is None
    torch.testing.assert_close(
        embeddings.from_teacher(STUDENT, TEACHER.flatten()), 1 - cosine_similarity(STUDENT, TEACHER)
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_a_model_that_is_its_own_teacher_has_no_loss(kind: str) -> None:
    torch.testing.assert_close(LOSSES[kind].from_teacher(STUDENT, STUDENT), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_loss_of_texts_sums_to_the_log_probability_of_the_answers(family: str) -> None:
    items = examples(4, longest_candidate=3, num_labels=3)
    texts = [type(item)(item.prompt, [item.candidates[item.answer]], 0) for item in items]
    [batch], model, loss = batches(family, texts, 4), TINY[family]().eval(), LOSSES["generation"]
    with torch.inference_mode():
        outputs = loss.outputs(model, batch)
        expected = log_probability(token_scores(model, batch), batch).sum()
        assert loss.from_answers is not None
        torch.testing.assert_close(-loss.from_answers(outputs, batch).sum(), expected)
    assert outputs.shape == (len(batch.token_M), model.config.vocab_size)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(len(batch.token_M)))


def test_mixture_weighs_its_parts_and_asks_for_what_they_need() -> None:
    plain = LOSSES["classification"]
    loss, batch = TaskLoss(lambda model, batch: STUDENT, *plain[1:]), batch_with(right_Q=RIGHT)
    assert loss.from_answers is not None
    answers, distance = loss.from_answers(STUDENT, batch), loss.from_teacher(STUDENT, TEACHER)
    model = torch.nn.Identity()
    torch.testing.assert_close(mixed(loss, model, batch, TEACHER, 0.25), 0.25 * answers + 0.75 * distance)
    torch.testing.assert_close(mixed(loss, model, batch, None, 1.0), answers)
    torch.testing.assert_close(mixed(loss, model, batch, TEACHER, 0.0), distance)
    with pytest.raises(ValueError, match="teacher"):
        mixed(loss, model, batch, None, 0.5)
    with pytest.raises(ValueError, match="right answers"):
        mixed(LOSSES["embedding"]._replace(outputs=loss.outputs), model, batch, TEACHER, 0.5)
