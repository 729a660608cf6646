"""Generates texts: by greedy decoding, or where rows are written by sampling.

The generation config of a checkpoint (beams, penalties, forced or suppressed tokens) has no effect, apart from its end
tokens. Otherwise two models with the same weights would be judged differently. A family may have tokens that it never
writes: the padding token of a Marian has the logit 0, and those of all other tokens may be negative.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from service.contract.answers.report import Decoding
from worker.data.batching import Padding, pad_left, pad_right
from worker.data.examples import Example
from worker.data.wordings import Wording


@dataclass(frozen=True)
class Sampling:
    """Texts that are drawn instead of the most probable ones."""

    temperature: float
    top_p: float  # the most probable tokens with this probability together are drawn from
    seed: int


def decoding(examples: Sequence[Example], padding: Padding) -> Decoding:
    """How the answers to the examples are generated: at most as many tokens as the longest right text has."""
    return Decoding(
        end_tokens=list(padding.ends),
        opening_tokens=list(padding.decoder_opening),
        max_new_tokens=max(max(len(example.candidates[0]), example.other_tokens) for example in examples),
    )


def generate(
    model: PreTrainedModel,
    examples: Sequence[Example],
    wording: Wording,
    padding: Padding,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> list[str]:
    """The greedy continuation of every prompt as text, without special tokens."""
    generated = generate_tokens(model, examples, wording, padding, tokens_per_batch, on_examples)
    return texts(generated, wording, padding)


def texts(generated: Sequence[list[int]], wording: Wording, padding: Padding) -> list[str]:
    """The texts of generated tokens, without special tokens and without the end token, whichever it is."""
    written = [tokens[:-1] if tokens and tokens[-1] in padding.ends else tokens for tokens in generated]
    return wording.tokenizer.batch_decode(written, skip_special_tokens=True)


def generate_tokens(
    model: PreTrainedModel,
    examples: Sequence[Example],
    wording: Wording,
    padding: Padding,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The tokens of `generate`, including the end token where the model generated it.

    They do not depend on the batches: the rows of a batch may all have the same number of tokens. With `sampling` they
    do: the draws of a batch follow each other.
    """
    how = decoding(examples, padding)
    limits = [_most_tokens(example, wording, how) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].prompt))
    written: dict[int, list[int]] = {}
    for number, chunk in enumerate(_even_chunks(order, examples, limits, tokens_per_batch)):
        prompts = [examples[index] for index in chunk]
        with _drawing(model, sampling, number):
            answers = _continue(model, prompts, padding, how, limits[chunk[0]], sampling)
        written |= {index: _up_to_end(answer, how) for index, answer in zip(chunk, answers, strict=True)}
        on_examples(len(written))
    return [written[index] for index in range(len(examples))]


def _most_tokens(example: Example, wording: Wording, how: Decoding) -> int:
    """Tokens that the answer may have: as `how` says, or fewer where the model takes no more after the prompt."""
    if wording.max_tokens is None:
        return how.max_new_tokens
    read_before = len(example.prompt) if wording.kind == "causal" else len(how.opening_tokens)
    return max(1, min(how.max_new_tokens, wording.max_tokens - read_before + 1))  # the last token is not read


def _up_to_end(tokens: list[int], how: Decoding) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in how.end_tokens), len(tokens))
    return tokens[: end + 1]


def _even_chunks(
    order: Sequence[int], examples: Sequence[Example], limits: Sequence[int], tokens_per_batch: int
) -> list[list[int]]:
    """Chunks of consecutive examples of `order` with one limit, each with at most `tokens_per_batch` tokens, padding
    included."""
    chunks: list[list[int]] = []
    for index in order:  # prompts become longer, so that the last one of a chunk is the longest
        size = len(examples[index].prompt) + limits[index]
        fits = bool(chunks) and limits[chunks[-1][0]] == limits[index]
        if fits and (len(chunks[-1]) + 1) * size <= tokens_per_batch:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


def _continue(
    model: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    how: Decoding,
    limit: int,
    sampling: Sampling | None,
) -> list[list[int]]:
    """The generated tokens of a chunk. A decoder-only model has its prompts padded on the left."""
    pad = pad_left if padding.kind == "causal" else pad_right
    input_ids, mask_BT = pad([example.prompt for example in examples], padding.pad)
    config = GenerationConfig(
        **_strategy(sampling),
        max_new_tokens=limit,
        pad_token_id=padding.pad,
        eos_token_id=how.end_tokens or None,
        decoder_start_token_id=next(iter(how.opening_tokens), None),
        suppress_tokens=list(padding.unwritten) or None,
    )
    inputs = {"input_ids": input_ids, "attention_mask": mask_BT.long()}
    if padding.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = torch.tensor([padding.decoder_opening] * len(examples))
    with torch.inference_mode(), _without_generation_config(model):
        output_BT = model.generate(  # type: ignore[operator]
            **{name: value.to(model.device) for name, value in inputs.items()}, generation_config=config
        )
    start = input_ids.shape[1] if padding.kind == "causal" else len(padding.decoder_opening)
    return [row[start:] for row in output_BT.tolist()]


def _strategy(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}


@contextmanager
def _drawing(model: PreTrainedModel, sampling: Sampling | None, number: int) -> Iterator[None]:
    """Within the context, random numbers are those of the seed and of the number of the chunk."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed + number)
        yield


@contextmanager
def _without_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Take the checkpoint's generation config away, from which `generate` fills in what a given config leaves open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
