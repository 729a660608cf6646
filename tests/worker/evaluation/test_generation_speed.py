"""Tokens a second of prefill and decode."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from tests.support import checkpoints
from tests.support.tiny_models import TINY, family_of_model
from worker.data.batching import Padding, padding
from worker.data.examples import Example
from worker.evaluation.generation_speed import NEW_TOKENS, RUNS, measure_in_turns, median_prompt

PROMPTS = [Example(tuple(range(4, 4 + length)), ((7,),), 0, "") for length in (3, 9, 5)]


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


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart"])
def test_models_read_one_prompt_and_write_what_greedy_decoding_writes(name: str) -> None:
    dense, slim = TINY[name](), TINY[name]()
    seen: list[tuple[str, list[int]]] = []

    def follow(model: nn.Module, label: str) -> None:
        def see(_: nn.Module, __: object, inputs: dict[str, Tensor]) -> None:
            seen.append(
                (label, inputs.get("decoder_input_ids", inputs.get("input_ids", torch.zeros(1, 0)))[0].tolist())
            )

        model.register_forward_pre_hook(see, with_kwargs=True)

    expected = greedy(TINY[name](), torch.tensor([PROMPTS[2].prompt]), padding_of(dense).decoder_opening)
    follow(dense, "dense")
    follow(slim, "slim")
    found = measure_in_turns(dense, slim, PROMPTS, padding_of(dense), max_tokens=64)
    first = list(padding_of(dense).decoder_opening or PROMPTS[2].prompt)
    one_run = [first, *([token] for token in expected[:-1])]
    turns = [(label, read) for _ in range(RUNS + 1) for label in ("dense", "slim") for read in one_run]
    assert seen == turns
    assert (found.prompt_tokens, found.new_tokens, found.runs) == (5, NEW_TOKENS, RUNS)
    for rate in (found.prefill, found.decode):
        assert 0 < rate.dense_quartiles.first <= rate.dense <= rate.dense_quartiles.third
        assert 0 < rate.slim_quartiles.first <= rate.slim <= rate.slim_quartiles.third


@pytest.mark.parametrize(("most", "length"), [(None, 5), (64, 5), (NEW_TOKENS + 4, 4), (NEW_TOKENS, 1)])
def test_prompt_leaves_room_for_the_new_tokens(most: int | None, length: int) -> None:
    assert len(median_prompt(PROMPTS, most)) == length
