"""Tokens a second of prefill and decode."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from service.models.families.table import FAMILIES
from tests.support import checkpoints
from tests.support.tiny_models import TINY, base_name, family_of_model
from worker.data.batching import Padding, padding
from worker.evaluation import generation_speed
from worker.evaluation.generation_speed import (
    LEAST_RUNS,
    NEW_TOKENS,
    RUNS,
    GenerationRuns,
    Seconds,
    compared,
    measure,
    median_prompt,
    num_new_tokens,
)
from worker.stages.evaluation.speed import WRITING

PROMPTS = [tuple(range(4, 4 + length)) for length in (3, 9, 5)]


def padding_of(model: PreTrainedModel) -> Padding:
    kind = family_of_model(model).kind
    return padding(model, checkpoints.tokenizer(kind), kind)


def greedy(model: PreTrainedModel, prompt: Tensor, opening: tuple[int, ...]) -> list[int]:
    """The tokens that transformers generates, without an end."""
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0, decoder_start_token_id=next(iter(opening), None)
    )
    start = {"decoder_input_ids": torch.tensor([opening])} if opening else {}
    model.generation_config = GenerationConfig()
    written: Tensor = model.generate(prompt, generation_config=config, **start)  # type: ignore[operator]
    return [int(token) for token in written[0, len(opening) if opening else prompt.shape[1] :]]


HEADS = ("_classifier", "_tokens")
FAST = ("llama", "gpt2", "t5", "bart")  # the others are marked slow
WRITERS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in TINY
    if FAMILIES[base_name(name)].kind in WRITING and not name.endswith(HEADS)
]


@pytest.mark.parametrize("name", WRITERS)
def test_model_reads_the_prompt_and_writes_what_greedy_decoding_writes(name: str) -> None:
    torch.set_num_threads(1)
    model, seen = TINY[name](), list[list[int]]()
    prompt, padded = PROMPTS[2], padding_of(model)
    expected = greedy(TINY[name](), torch.tensor([prompt]), padded.decoder_opening)

    def see(_: nn.Module, __: object, inputs: dict[str, Tensor]) -> None:
        seen.append(inputs.get("decoder_input_ids", inputs.get("input_ids", torch.zeros(1, 0)))[0].tolist())

    model.register_forward_pre_hook(see, with_kwargs=True)
    found = measure(model, prompt, padded, NEW_TOKENS)
    one_run = [list(padded.decoder_opening or prompt), *([token] for token in expected[:-1])]
    assert seen == one_run * (len(found.seconds) + 1)
    assert (found.prompt_tokens, found.new_tokens) == (5, NEW_TOKENS)
    assert all(run.prefill > 0 and run.decode > 0 for run in found.seconds)


def test_slow_model_runs_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY["llama"]()
    monkeypatch.setattr(generation_speed, "SECONDS", 1e-9)
    assert len(measure(model, PROMPTS[2], padding_of(model), 2).seconds) == LEAST_RUNS
    monkeypatch.setattr(generation_speed, "SECONDS", 1e9)
    assert len(measure(model, PROMPTS[2], padding_of(model), 2).seconds) == RUNS


def test_rates_are_medians_with_their_spread() -> None:
    dense = GenerationRuns(10, 5, [Seconds(1.0, 4.0), Seconds(2.0, 2.0), Seconds(4.0, 1.0)])
    slim = GenerationRuns(10, 5, [Seconds(0.5, 1.0)] * 3)
    found = compared(dense, slim)
    assert (found.prefill.dense, found.prefill.slim) == (5, 20)
    assert (found.decode.dense, found.decode.slim) == (2, 4)
    assert (found.decode.dense_quartiles.first, found.decode.dense_quartiles.third) == (1.5, 3)
    assert (found.prompt_tokens, found.new_tokens, found.runs) == (10, 5, 3)


@pytest.mark.parametrize(("most", "length"), [(None, 5), (64, 5), (8, 4), (6, 3), (2, 1)])
def test_prompt_leaves_room_for_the_new_tokens(most: int | None, length: int) -> None:
    assert len(median_prompt(PROMPTS, most)) == length
    assert most is None or length + num_new_tokens(most) <= most
