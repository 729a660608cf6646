"""Measures how many tokens a second a model reads and writes: prefill and decode of one prompt, with a cache.

Servers state these two figures because they have other limits: prefill computes all tokens of a prompt at once, decode
reads every weight for each token.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.answers.result import GenerationSpeed, Quartiles, TokenRate
from worker.data.batching import Padding
from worker.data.wordings import Tokens

RUNS = 5
SECONDS = 10.0  # for all runs of a model; a slow one has LEAST_RUNS
LEAST_RUNS = 3
NEW_TOKENS = 16  # that are written, whether or not one of them is an end token


@dataclass(frozen=True)
class Seconds:
    """The seconds that one run took to read the prompt, and to write the new tokens after the first."""

    prefill: float
    decode: float


@dataclass(frozen=True)
class GenerationRuns:
    """The timed runs of one model."""

    prompt_tokens: int
    new_tokens: int
    seconds: list[Seconds]


def measure(model: PreTrainedModel, prompt: Tokens, padding: Padding, new_tokens: int) -> GenerationRuns:
    """Runs of the model on its device, which read the prompt and write `new_tokens` (at least 2)."""
    started = time.perf_counter()
    run(model, [prompt], padding, new_tokens)  # it warms up
    fitting = int(SECONDS / (time.perf_counter() - started)) - 1
    runs = max(LEAST_RUNS, min(RUNS, fitting))
    return GenerationRuns(len(prompt), new_tokens, [run(model, [prompt], padding, new_tokens) for _ in range(runs)])


def compared(dense: GenerationRuns, slim: GenerationRuns) -> GenerationSpeed:
    """The speed of both models, which read and wrote equal numbers of tokens."""
    return GenerationSpeed(
        prefill=_rate(dense.prompt_tokens, [[run.prefill for run in each.seconds] for each in (dense, slim)]),
        decode=_rate(dense.new_tokens - 1, [[run.decode for run in each.seconds] for each in (dense, slim)]),
        prompt_tokens=dense.prompt_tokens,
        new_tokens=dense.new_tokens,
        runs=min(len(dense.seconds), len(slim.seconds)),
    )


def num_new_tokens(max_tokens: int | None) -> int:
    """How many tokens a model writes that takes `max_tokens`."""
    return NEW_TOKENS if max_tokens is None else min(NEW_TOKENS, max_tokens // 2)


def median_prompt(prompts: Sequence[Tokens], max_tokens: int | None) -> Tokens:
    """The prompt of median length, cut so that it leaves room for the new tokens."""
    by_length = sorted(prompts, key=len)
    prompt = by_length[len(by_length) // 2]
    return prompt if max_tokens is None else prompt[: max_tokens - num_new_tokens(max_tokens)]


def _rate(tokens: int, seconds: Sequence[Sequence[float]]) -> TokenRate:
    """The rates of the (dense, slim) model: the median over the runs, with quartiles."""
    rates = [[tokens / each for each in of_model] for of_model in seconds]
    (dense, dense_quartiles), (slim, slim_quartiles) = map(_quartiles, rates)
    return TokenRate(dense=dense, slim=slim, dense_quartiles=dense_quartiles, slim_quartiles=slim_quartiles)


def _quartiles(values: Sequence[float]) -> tuple[float, Quartiles]:
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return median, Quartiles(first=first, third=third)


def run(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    padding: Padding,
    new_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Read prompts of one length, then write tokens one by one from the cache, always the most likely one."""
    read_BT = torch.tensor(prompts, device=model.device)
    with torch.inference_mode():
        start = _now(model, clock)
        inputs, output = _prefill(model, read_BT, padding)
        token_B1 = _most_likely(output)
        middle = _now(model, clock)
        for _ in range(new_tokens - 1):
            output = model(**inputs(token_B1), past_key_values=output.past_key_values, use_cache=True)
            token_B1 = _most_likely(output)
        return Seconds(middle - start, _now(model, clock) - middle)


def _prefill(model: PreTrainedModel, read_BT: Tensor, padding: Padding) -> tuple[Any, Any]:
    """(the function that makes the inputs of a further token, the output after the prompt)."""
    if padding.kind != "encoder_decoder":
        return lambda token_B1: {"input_ids": token_B1}, model(input_ids=read_BT, use_cache=True, logits_to_keep=1)
    encoded = model.get_encoder()(input_ids=read_BT)
    opening = torch.tensor([padding.decoder_opening] * len(read_BT), device=read_BT.device)
    output = model(encoder_outputs=encoded, decoder_input_ids=opening, use_cache=True)
    return lambda token_B1: {"encoder_outputs": encoded, "decoder_input_ids": token_B1}, output


def _most_likely(output: Any) -> Tensor:
    token_B1: Tensor = output.logits[:, -1:].argmax(dim=-1)
    return token_B1


def _now(model: PreTrainedModel, clock: Callable[[], float]) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return clock()
