"""Measures the latency and the memory of a forward pass."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.contract.answers.result import Quartiles
from worker.data.batching import Padding, batches
from worker.data.examples import Example
from worker.evaluation.memory import peak_bytes, weight_bytes
from worker.slimming.scoring.objectives import Batch

RUNS = 7
TOKENS = 64
SIZES = (1, 8)  # batch sizes; the first one is that of the result's latency


@dataclass(frozen=True)
class LatencySample:
    """One timed forward pass, and its peak memory where the device counts that itself."""

    milliseconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class PassProfile:
    """The latency of a forward pass over several runs, and the most memory that it holds, weights included."""

    batch: int
    tokens: int
    milliseconds: float  # median
    peak_bytes: int
    quartiles: Quartiles  # of the milliseconds


def profile(
    model: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    tokens: int,
    sizes: Sequence[int] = SIZES,
) -> list[PassProfile]:
    """The profile of a pass for each of the batch `sizes`, on the device of the model.

    On a CPU the memory is counted in one more pass, because counting slows a pass down.
    """
    found = []
    for rows in sizes:
        batch = repeated_prompt(examples, padding, rows, tokens).to(model.device)
        samples = [_sample(model, batch) for _ in range(RUNS + 1)]
        found.append(_profile(model, batch, tokens, samples[1:]))  # the first pass warms up
    return found


def measure_latency(
    model: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    rows: int,
    tokens: int,
    on_pass: Callable[[], None] = lambda: None,
) -> float:
    """The median milliseconds of a forward pass with `rows` prompts of `tokens` tokens, on the device of the model.

    `on_pass` is called after each pass.
    """
    batch, samples = repeated_prompt(examples, padding, rows, tokens).to(model.device), []
    for _ in range(RUNS + 1):
        samples.append(_sample(model, batch))
        on_pass()
    return statistics.median(sample.milliseconds for sample in samples[1:])  # the first pass warms up


def repeated_prompt(examples: Sequence[Example], padding: Padding, rows: int, tokens: int) -> Batch:
    """A batch of `rows` prompts with `tokens` tokens each, which repeat the tokens of the longest prompt."""
    longest = max(examples, key=lambda example: len(example.prompt))
    repeated = longest.prompt * -(-tokens // len(longest.prompt))
    example = Example(repeated[:tokens], (longest.candidates[0][:1],), 0, longest.text)
    [batch] = batches([example] * rows, padding, rows * (tokens + len(padding.decoder_opening)))
    return batch


def _sample(model: PreTrainedModel, batch: Batch) -> LatencySample:
    """One forward pass."""
    with torch.inference_mode():
        return _gpu_sample(model, batch) if model.device.type == "cuda" else LatencySample(_timed(model, batch), None)


def _gpu_sample(model: PreTrainedModel, batch: Batch) -> LatencySample:
    torch.cuda.synchronize(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    others = torch.cuda.memory_allocated(model.device) - weight_bytes(model)
    milliseconds = _timed(model, batch)
    return LatencySample(milliseconds, torch.cuda.max_memory_allocated(model.device) - others)


def _timed(model: PreTrainedModel, batch: Batch) -> float:
    """The milliseconds of one forward pass."""
    start = time.perf_counter()
    model(**batch.inputs)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return (time.perf_counter() - start) * 1000


def _profile(model: PreTrainedModel, batch: Batch, tokens: int, samples: Sequence[LatencySample]) -> PassProfile:
    peaks = [sample.peak_bytes for sample in samples if sample.peak_bytes is not None] or [peak_bytes(model, batch)]
    first, median, third = statistics.quantiles([sample.milliseconds for sample in samples], n=4, method="inclusive")
    return PassProfile(batch.num_examples, tokens, median, max(peaks), Quartiles(first=first, third=third))
