"""Measures how many tokens a second a model reads and writes: prefill and decode of one prompt, with a cache.

The dense and the slim model run in turns, as for the latency of a pass. Servers state these two figures because they
have other limits: prefill computes all tokens of a prompt at once, decode reads every weight for each token.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.result import GenerationSpeed, Quartiles, TokenRate
from worker.data.batching import Padding
from worker.data.examples import Example
from worker.data.wordings import Tokens
from worker.evaluation.memory import has_room_for

RUNS = 5
NEW_TOKENS = 32  # that are written, whether or not one of them is an end token


@dataclass(frozen=True)
class Seconds:
    """The seconds that one run took to read the prompt, and to write the new tokens after the first."""

    prefill: float
    decode: float


def measure_in_turns(
    dense: PreTrainedModel,
    slim: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    max_tokens: int | None,
) -> GenerationSpeed:
    """The speed of both models for the prompt of median length, on the device of `slim`.

    `max_tokens` is what the model takes: a prompt that leaves no room for the new tokens is cut. `dense` may be on any
    device, and is moved to the CPU at the end. Where a GPU cannot hold both models, each one is moved there for its
    run; the move is not timed.
    """
    prompt, device = median_prompt(examples, max_tokens), slim.device
    move = not has_room_for(device, dense)
    samples = [[_sample(model, prompt, padding, device, move) for model in (dense, slim)] for _ in range(RUNS + 1)]
    nn.Module.to(dense, "cpu")
    nn.Module.to(slim, device)
    runs = samples[1:]  # the first one warms up
    return GenerationSpeed(
        prefill=_rate(len(prompt), [(before.prefill, now.prefill) for before, now in runs]),
        decode=_rate(NEW_TOKENS - 1, [(before.decode, now.decode) for before, now in runs]),
        prompt_tokens=len(prompt),
        new_tokens=NEW_TOKENS,
        runs=RUNS,
    )


def median_prompt(examples: Sequence[Example], max_tokens: int | None) -> Tokens:
    """The prompt of median length, with room for the new tokens after it."""
    by_length = sorted((example.prompt for example in examples), key=len)
    prompt = by_length[len(by_length) // 2]
    return prompt if max_tokens is None else prompt[: max(1, max_tokens - NEW_TOKENS)]


def _sample(model: PreTrainedModel, prompt: Tokens, padding: Padding, device: torch.device, move: bool) -> Seconds:
    """One run on the device; with `move` the model is moved back to the CPU after it."""
    nn.Module.to(model, device)
    seconds = _run(model, prompt, padding)
    if move:
        nn.Module.to(model, "cpu")
    return seconds


def _rate(tokens: int, seconds: Sequence[tuple[float, float]]) -> TokenRate:
    """The rates of (dense, slim) models: the median over the runs, with quartiles."""
    rates = [[tokens / each for each in of_model] for of_model in zip(*seconds, strict=True)]
    (dense, dense_quartiles), (slim, slim_quartiles) = map(_quartiles, rates)
    return TokenRate(dense=dense, slim=slim, dense_quartiles=dense_quartiles, slim_quartiles=slim_quartiles)


def _quartiles(values: Sequence[float]) -> tuple[float, Quartiles]:
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return median, Quartiles(first=first, third=third)


def _run(model: PreTrainedModel, prompt: Tokens, padding: Padding) -> Seconds:
    """Read the prompt, then write tokens one by one from the cache, always the most likely one."""
    read = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        start = _now(model)
        inputs, output = _prefill(model, read, padding)
        token_B1 = _most_likely(output)
        middle = _now(model)
        for _ in range(NEW_TOKENS - 1):
            output = model(**inputs(token_B1), past_key_values=output.past_key_values, use_cache=True)
            token_B1 = _most_likely(output)
        return Seconds(middle - start, _now(model) - middle)


def _prefill(model: PreTrainedModel, read_BT: Tensor, padding: Padding) -> tuple[Any, Any]:
    """(the function that makes the inputs of a further token, the output after the prompt)."""
    if padding.kind != "encoder_decoder":
        return lambda token_B1: {"input_ids": token_B1}, model(input_ids=read_BT, use_cache=True, logits_to_keep=1)
    encoded = model.get_encoder()(input_ids=read_BT)
    opening = torch.tensor([padding.decoder_opening], device=read_BT.device)
    output = model(encoder_outputs=encoded, decoder_input_ids=opening, use_cache=True)
    return lambda token_B1: {"encoder_outputs": encoded, "decoder_input_ids": token_B1}, output


def _most_likely(output: Any) -> Tensor:
    token_B1: Tensor = output.logits[:, -1:].argmax(dim=-1)
    return token_B1


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
