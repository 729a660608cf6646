"""Generation is greedy in every batch, whatever the checkpoint's generation config asks for."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.models.families.family import Kind
from service.rows.row import Row
from tests.support import checkpoints
from tests.support.tiny_models import TINY, family_of_model
from worker.data.batching import Padding, padding
from worker.data.examples import Example
from worker.data.prompts import encode
from worker.data.wordings import Wording, wording
from worker.evaluation.generation import decoding, generate, generate_tokens

TEXTS = ["good film", "a lazy dog jumps", "bad", "the quick brown fox jumps over a bad plot", "film : ( good )"]
# What the generation config of a checkpoint may ask for, and greedy decoding must not follow.
LEAKS: dict[str, Any] = {
    "num_beams": 3,
    "do_sample": True,
    "temperature": 2.0,
    "min_length": 60,
    "min_new_tokens": 6,
    "max_length": 3,
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 50.0,
    "encoder_repetition_penalty": 50.0,
    "bad_words_ids": [[number] for number in range(3, 60)],
    "suppress_tokens": list(range(3, 90)),
    "begin_suppress_tokens": list(range(3, 127)),
    "forced_eos_token_id": 2,
    "sequence_bias": [[[5], 90.0]],
    "exponential_decay_length_penalty": [0, 50.0],
    "guidance_scale": 3.0,
    "cache_implementation": "static",
    "num_return_sequences": 2,
    "stop_strings": ["o"],
    "prompt_lookup_num_tokens": 2,
}


def ignore(done: int) -> None:
    """Progress that is not recorded."""


def rows_with_targets() -> list[Row]:
    return [Row({"text": text, "target": "good film " * (1 + line % 3)}, line) for line, text in enumerate(TEXTS)]


def generation(name: str) -> tuple[PreTrainedModel, Wording, list[Example], Padding]:
    model = TINY[name]()
    kind: Kind = family_of_model(model).kind
    raw = {"kind": "generation", "template": "{text}:", "calibration": {"uri": "file:///a.jsonl"}}
    asked = wording(kind, resolve(Task.model_validate(raw)), checkpoints.tokenizer(kind), model.config)
    return model, asked, encode(rows_with_targets(), asked)[0], padding(model, asked.tokenizer, kind)


def greedy(model: PreTrainedModel, example: Example, kind: Kind, opening: tuple[int, ...], most: int) -> list[int]:
    """The greedy continuation, one token at a time, without padding or cache."""
    prompt, answer = list(example.prompt), list(opening)
    while len(answer) - len(opening) < most:
        if kind == "causal":
            logits: Tensor = model(input_ids=torch.tensor([prompt + answer])).logits
        else:
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([answer])).logits
        answer.append(int(logits[0, -1].argmax()))
        if answer[-1] == 2:
            break
    return answer[len(opening) :]


def all_greedy(model: PreTrainedModel, examples: list[Example], asked: Wording, margins: Padding) -> list[list[int]]:
    most = decoding(examples, margins).max_new_tokens
    with torch.inference_mode():
        return [greedy(model, example, asked.kind, margins.decoder_opening, most) for example in examples]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bart", "m2m_100", "t5gemma"])
@pytest.mark.parametrize("budget", [1, 4096])
def test_generation_is_greedy_in_every_batch(name: str, budget: int) -> None:
    torch.set_num_threads(1)
    model, asked, examples, margins = generation(name)
    counted: list[int] = []
    texts = generate(model, examples, asked, margins, budget, counted.append)
    alone = all_greedy(model, examples, asked, margins)
    assert texts == asked.tokenizer.batch_decode(alone, skip_special_tokens=True)
    assert counted[-1] == len(TEXTS)


def test_a_marian_never_writes_its_padding_token() -> None:
    torch.set_num_threads(1)
    model, asked, examples, margins = generation("marian")
    model.get_buffer("final_logits_bias")[:, 0] = 1000
    assert all(set(tokens) == {0} for tokens in all_greedy(model, examples, asked, margins))
    written = generate_tokens(model, examples, asked, margins, 4096, ignore)
    model.get_buffer("final_logits_bias")[:, 0] = -1000
    assert written == all_greedy(model, examples, asked, margins)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_generation_config_of_the_checkpoint_has_no_effect(name: str) -> None:
    torch.set_num_threads(1)
    model, asked, examples, margins = generation(name)
    expected = all_greedy(model, examples, asked, margins)
    for setting, value in LEAKS.items():
        model.generation_config = own = GenerationConfig()
        setattr(own, setting, value)
        assert generate_tokens(model, examples, asked, margins, 4096, ignore) == expected, setting
        assert model.generation_config is own


@pytest.mark.parametrize("named", [7, [7, 9], None])
def test_end_tokens_are_those_of_the_tokenizer_and_of_the_generation_config(named: int | list[int] | None) -> None:
    torch.set_num_threads(1)
    model, asked, examples, margins = generation("llama")
    [first] = {tokens[0] for tokens in generate_tokens(model, examples[:1], asked, margins, 4096, ignore)}
    model.generation_config.eos_token_id = named
    margins = padding(model, asked.tokenizer, "causal")
    expected = {2} | ({named} if isinstance(named, int) else set(named or ()))
    assert set(decoding(examples, margins).end_tokens) == expected
    model.generation_config.eos_token_id = [first]
    margins = padding(model, asked.tokenizer, "causal")
    assert generate_tokens(model, examples[:1], asked, margins, 4096, ignore) == [[first]]
    assert generate(model, examples[:1], asked, margins, 4096, ignore) == [""]


def test_texts_may_be_as_long_as_the_longest_right_one() -> None:
    _, asked, _, margins = generation("llama")
    long = "good film " * 9
    for targets in (["bad", long, "film"], [long, "bad"]):
        [example], _ = encode([Row({"text": "good", "target": targets}, 1)], asked)
        [alone], _ = encode([Row({"text": "good", "target": long}, 1)], asked)
        assert decoding([example], margins).max_new_tokens == len(alone.candidates[0])


def test_a_long_prompt_leaves_room_for_fewer_tokens_and_other_rows_keep_theirs() -> None:
    torch.set_num_threads(1)
    model, asked, _, margins = generation("gpt2")
    rows = [Row({"text": "good", "target": "good film " * 10}, 1), Row({"text": "bad " * 80, "target": "bad"}, 2)]
    examples, shortened = encode(rows, asked)
    assert shortened == 1
    short, long = generate_tokens(model, examples, asked, margins, 4096, ignore)
    assert len(examples[1].prompt) + len(long) - 1 <= 64
    with torch.inference_mode():
        most = decoding(examples, margins).max_new_tokens
        assert short == greedy(model, examples[0], "causal", (), most)
