import math

import pytest
import torch

from service.contract.errors import InvalidModel
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.models.families.family import CLASSIFIERS, Kind
from service.rows.row import Row
from tests.support import checkpoints
from tests.support.tiny_models import TINY, family_of_model
from worker.data.batching import batches, padding
from worker.data.examples import Example
from worker.data.prompts import encode
from worker.data.wordings import wording
from worker.evaluation.answer_scores import score

TEXTS = ["good film", "a lazy dog jumps", "bad", "the quick brown fox jumps over a bad plot", "film : ( good )"]


def ignore(done: int) -> None:
    """Progress that is not recorded."""


@pytest.mark.parametrize("budget", [1, 40, 4096])
@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_scores_do_not_depend_on_the_batches(name: str, budget: int) -> None:
    torch.set_num_threads(1)
    model = TINY[name]()
    kind: Kind = family_of_model(model).kind
    labels = {"good": "LABEL_0", "bad": "LABEL_2"} if kind in CLASSIFIERS else {"good": "good film", "bad": "bad"}
    rows = [Row({"text": text, "label": "good"}, line) for line, text in enumerate(TEXTS)]
    task = Task.model_validate({"template": "{text}!", "labels": labels, "calibration": {"uri": "file:///a.jsonl"}})
    tokenizer = checkpoints.tokenizer(kind)
    examples, _ = encode(rows, wording(kind, resolve(task), tokenizer, model.config))
    margins = padding(model, tokenizer, kind)
    counted: list[int] = []
    found = score(model, batches(examples, margins, budget), counted.append)
    alone = [score(model, batches([example], margins, 1), ignore).score_EL for example in examples]
    torch.testing.assert_close(found.score_EL, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert counted[-1] == len(TEXTS)


def test_non_finite_outputs_are_an_invalid_model() -> None:
    model = TINY["llama"]()
    model.get_output_embeddings().weight.data.fill_(math.nan)
    examples = [Example((5, 6), ((7,), (8,)), 0, "")]
    with pytest.raises(InvalidModel, match="not finite"):
        score(model, batches(examples, padding(model, checkpoints.tokenizer(), "causal"), 10), ignore)


def test_the_longer_of_two_labels_wins_where_the_model_writes_it() -> None:
    torch.set_num_threads(1)
    model, tokenizer = TINY["llama"](), checkpoints.tokenizer()
    labels = {"short": "good", "long": "good bad"}
    task = Task.model_validate({"template": "{text}:", "labels": labels, "calibration": {"uri": "file:///a.jsonl"}})
    rows = [Row({"text": ("film", "plot")[line % 2], "label": ("short", "long")[line % 2]}, line) for line in range(4)]
    examples, _ = encode(rows, wording("causal", resolve(task), tokenizer, model.config))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for example in examples * 15:
        text = torch.tensor([[*example.prompt, *example.candidates[example.answer]]])
        optimizer.zero_grad()
        model(input_ids=text, labels=text).loss.backward()
        optimizer.step()
    found = score(model, batches(examples, padding(model, tokenizer, "causal"), 4096), ignore)
    assert torch.equal(found.score_EL.argmax(dim=1), found.answer_E)
