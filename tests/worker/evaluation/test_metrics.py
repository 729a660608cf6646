import math

import pytest
import torch
from torch import Tensor

from service.contract.errors import InvalidModel
from service.contract.presets import resolve
from service.contract.rows import Row
from service.contract.task import Task
from service.families.table import FAMILIES, Kind
from tests.support import checkpoints
from tests.support.tiny_models import TINY
from worker.data.batching import batches, padding
from worker.data.prompts import Example, Wording, encode, wording
from worker.evaluation.metrics import generate, score

TEXTS = ["good film", "a lazy dog jumps", "bad", "the quick brown fox jumps over a bad plot", "film : ( good )"]


def ignore(done: int) -> None:
    """Progress that is not recorded."""


@pytest.mark.parametrize("budget", [1, 40, 4096])
@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_scores_do_not_depend_on_the_batches(name: str, budget: int) -> None:
    torch.set_num_threads(1)
    model = TINY[name]()
    kind: Kind = FAMILIES[model.config.model_type].kind
    labels = {"good": "LABEL_0", "bad": "LABEL_2"} if kind == "classifier" else {"good": "good film", "bad": "bad"}
    rows = [Row({"text": text, "label": "good"}, line) for line, text in enumerate(TEXTS)]
    task = Task.model_validate({"template": "{text}!", "labels": labels, "calibration": {"uri": "file:///a.jsonl"}})
    tokenizer = checkpoints.tokenizer(kind)
    examples, _ = encode(rows, wording(kind, resolve(task), tokenizer, model.config))
    margins = padding(model, tokenizer, kind)
    counted: list[int] = []
    found = score(model, batches(examples, margins, budget), counted.append)
    alone = [score(model, batches([example], margins, 1), ignore).log_probability_EL for example in examples]
    torch.testing.assert_close(found.log_probability_EL, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert counted[-1] == len(TEXTS)


def test_non_finite_outputs_are_an_invalid_model() -> None:
    model = TINY["llama"]()
    model.get_output_embeddings().weight.data.fill_(math.nan)
    examples = [Example((5, 6), ((7,), (8,)), 0, "")]
    with pytest.raises(InvalidModel, match="not finite"):
        score(model, batches(examples, padding(model, checkpoints.tokenizer(), "causal"), 10), ignore)


def generation(name: str, rows: list[Row]) -> tuple[torch.nn.Module, Wording, list[Example]]:
    model = TINY[name]()
    kind: Kind = FAMILIES[model.config.model_type].kind
    raw = {"kind": "generation", "template": "{text}:", "calibration": {"uri": "file:///a.jsonl"}}
    asked = wording(kind, resolve(Task.model_validate(raw)), checkpoints.tokenizer(kind), model.config)
    return model, asked, encode(rows, asked)[0]


def greedy(model: torch.nn.Module, example: Example, kind: Kind, opening: tuple[int, ...]) -> list[int]:
    """The greedy continuation, one token at a time, without padding or cache."""
    prompt, answer = list(example.prompt), list(opening)
    while len(answer) - len(opening) < len(example.candidates[0]):
        if kind == "causal":
            logits: Tensor = model(input_ids=torch.tensor([prompt + answer])).logits
        else:
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([answer])).logits
        answer.append(int(logits[0, -1].argmax()))
        if answer[-1] == 2:
            break
    return answer[len(opening) :]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bart"])
@pytest.mark.parametrize("budget", [1, 4096])
def test_generation_is_greedy_in_every_batch(name: str, budget: int) -> None:
    torch.set_num_threads(1)
    rows = [Row({"text": text, "target": "good film " * (1 + line % 3)}, line) for line, text in enumerate(TEXTS)]
    model, asked, examples = generation(name, rows)
    margins = padding(model, asked.tokenizer, asked.kind)  # type: ignore[arg-type]
    counted: list[int] = []
    texts = generate(model, examples, asked, margins, budget, counted.append)  # type: ignore[arg-type]
    with torch.inference_mode():
        alone = [greedy(model, example, asked.kind, margins.decoder_opening) for example in examples]
    expected = [asked.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in alone]
    for text, whole in zip(texts, expected, strict=True):
        assert text.startswith(str(whole))  # a batch's longest target bounds them all
    assert counted[-1] == len(TEXTS)
