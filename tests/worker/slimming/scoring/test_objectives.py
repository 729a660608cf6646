"""The objectives: each equals a slow loop over the tokens of the answers."""

import math
from dataclasses import replace

import pytest
import torch

from service.contract.options import Objective, TaskKind
from service.contract.request.method import OBJECTIVES as OBJECTIVES_OF
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.scoring.objectives import OBJECTIVES, Batch, candidate_scores, objective_values

LABELS = 3


def example_batch() -> tuple[Batch, list[list[list[float]]]]:
    """A batch with candidates of one and two tokens; example -> label -> log-probability of each token."""
    (batch,) = batches("llama", examples(4, longest_candidate=2, num_labels=LABELS), 4)
    drawn = -torch.rand(batch.token_M.numel(), generator=torch.Generator().manual_seed(1)).double() * 3
    found: list[list[list[float]]] = [[[] for _ in range(LABELS)] for _ in range(batch.num_examples)]
    for example, label, value in zip(batch.question_M, batch.label_M, drawn, strict=True):
        found[int(example)][int(label)].append(float(value))
    return batch, found


def log_probabilities(found: list[list[list[float]]]) -> torch.Tensor:
    """The log-probabilities in the order of a batch: example by example, label by label, token by token (M)."""
    return torch.tensor([value for labels in found for tokens in labels for value in tokens], dtype=torch.float64)


def slowly(objective: str, labels: list[list[float]], answer: int) -> float:
    """The objective of one example."""
    sums = [math.fsum(tokens) for tokens in labels]
    match objective:
        case "probability":
            return math.fsum(map(math.exp, labels[answer]))
        case "sequence_probability":
            return math.exp(sums[answer])
        case "log_probability":
            return sums[answer]
    if objective == "entropy":
        total = math.log(math.fsum(map(math.exp, sums)))
        return -math.fsum(math.exp(value - total) * (value - total) for value in sums)
    if objective == "output":  # of a head whose candidates have one output each
        return sums[answer]
    assert objective == "margin"
    return sums[answer] - max(value for label, value in enumerate(sums) if label != answer)


def test_contract_lists_the_objectives() -> None:
    assert set(OBJECTIVES) == set(Objective)


@pytest.mark.parametrize("objective", [each for each in Objective if each is not Objective.projection])
def test_objective_equals_a_slow_loop(objective: str) -> None:
    batch, found = example_batch()
    expected_E = [slowly(objective, labels, int(answer)) for labels, answer in zip(found, batch.right_Q, strict=True)]
    ours_E = OBJECTIVES[objective](log_probabilities(found), batch)
    torch.testing.assert_close(ours_E, torch.tensor(expected_E, dtype=torch.float64))


SEVERAL = OBJECTIVES_OF[TaskKind.multi_label]


@pytest.mark.parametrize("objective", SEVERAL)
def test_objective_of_several_labels_equals_a_slow_loop(objective: str) -> None:
    (made,) = batches("bert", examples(4, num_labels=LABELS), 4)
    target_EL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double()
    batch = replace(made, target_EL=target_EL)
    output_EL = torch.randn(4, LABELS, generator=torch.Generator().manual_seed(0)).double()
    expected = []
    for output_L, target_L in zip(output_EL.tolist(), target_EL.tolist(), strict=True):
        signs = [1 if is_right else -1 for is_right in target_L]
        chances = [1 / (1 + math.exp(-sign * number)) for sign, number in zip(signs, output_L, strict=True)]
        expected.append(
            {
                "margin": math.fsum(math.log(p / (1 - p)) for p in chances),
                "log_probability": math.fsum(map(math.log, chances)),
                "probability": math.fsum(chances),
                "sequence_probability": math.prod(chances),
                "entropy": -math.fsum(each * math.log(each) for p in chances for each in (p, 1 - p)),
            }[objective]
        )
    found_E = OBJECTIVES[objective](output_EL[batch.question_M, batch.label_M], batch)
    torch.testing.assert_close(found_E, torch.tensor(expected).double())


def test_probability_of_a_candidate_is_that_of_all_its_tokens() -> None:
    batch, found = example_batch()
    assert {len(tokens) for labels in found for tokens in labels} == {1, 2}
    expected_EL = torch.tensor([[math.fsum(tokens) for tokens in labels] for labels in found], dtype=torch.float64)
    torch.testing.assert_close(candidate_scores(log_probabilities(found), batch), expected_EL)


def test_entropy_of_a_text_is_that_of_the_vocabulary_at_every_token_of_its_answer() -> None:
    rows = [replace(each, candidates=each.candidates[2:], answer=0) for each in examples(4, longest_candidate=3)]
    (batch,) = batches("llama", rows, 4)
    model = TINY["llama"]()
    expected = []
    for example in batch.index_E.tolist():
        ids = torch.tensor([[*rows[example].prompt, *rows[example].candidates[0]]])
        log_P_TV = model(input_ids=ids).logits[0].log_softmax(dim=-1)
        start = len(rows[example].prompt) - 1
        at_answer = log_P_TV[start : start + len(rows[example].candidates[0])]
        expected.append(-(at_answer.exp() * at_answer).sum())
    torch.testing.assert_close(objective_values(model, batch, "entropy"), torch.stack(expected))
