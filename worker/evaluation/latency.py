"""How fast a model is before and after, and how much memory it takes.

One pass of each in turn, so that a machine that slows down slows both.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from worker.data.batching import Padding, batches
from worker.data.prompts import Example
from worker.evaluation.memory import peak_bytes, weight_bytes
from worker.slimming.scoring.objectives import Batch

RUNS = 7
TOKENS = 64
SIZES = (1, 8)  # rows of a batch; the first is the latency in the result


@dataclass(frozen=True)
class Speed:
    """One size of forward pass: median milliseconds, and the most memory that it holds at once, weights included."""

    batch: int
    tokens: int
    milliseconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Pass:
    """One timed forward pass, with its memory where the device counts that by itself."""

    milliseconds: float
    peak_bytes: int | None


def compare(
    dense: PreTrainedModel,
    slim: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    tokens: int,
    sizes: Sequence[int] = SIZES,
) -> list[tuple[Speed, Speed]]:
    """(dense, slim) for each of `sizes`, on the device of `slim`; `dense` may be anywhere and ends on the CPU.

    Where a GPU cannot hold both, each is moved there for its pass, which is not timed. On a CPU the memory is that of
    one more pass of each, so that counting slows none that is timed.
    """
    device = slim.device
    crowded = device.type == "cuda" and 1.1 * weight_bytes(dense) > torch.cuda.mem_get_info(device)[0]
    found = []
    for rows in sizes:
        batch = passing_batch(examples, padding, rows, tokens).to(device)
        rounds = [[_pass(model, batch, device, crowded) for model in (dense, slim)] for _ in range(RUNS + 1)]
        before, now = zip(*rounds[1:], strict=True)  # the first warms up
        found.append((_speed(dense, batch, tokens, before), _speed(slim, batch, tokens, now)))
    nn.Module.to(dense, "cpu")
    nn.Module.to(slim, device)
    return found


def alone(
    model: PreTrainedModel,
    examples: Sequence[Example],
    padding: Padding,
    rows: int,
    tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> float:
    """Median milliseconds of one size of pass on the device of the model; `tick` is called after each."""
    batch, passes = passing_batch(examples, padding, rows, tokens).to(model.device), []
    for _ in range(RUNS + 1):
        passes.append(_pass(model, batch, model.device, crowded=False))
        tick()
    return _median(passes[1:])  # the first warms up


def passing_batch(examples: Sequence[Example], padding: Padding, rows: int, tokens: int) -> Batch:
    """`rows` prompts of `tokens` tokens each, made of the longest prompt's tokens over and over."""
    longest = max(examples, key=lambda example: len(example.prompt))
    repeated = longest.prompt * -(-tokens // len(longest.prompt))
    example = Example(repeated[:tokens], (longest.candidates[0][:1],), 0, longest.text)
    [batch] = batches([example] * rows, padding, rows * (tokens + len(padding.decoder_opening)))
    return batch


def _pass(model: PreTrainedModel, batch: Batch, device: torch.device, crowded: bool) -> Pass:
    nn.Module.to(model, device)
    with torch.inference_mode():
        timed = _on_gpu(model, batch) if device.type == "cuda" else Pass(_milliseconds(model, batch), None)
    if crowded:
        nn.Module.to(model, "cpu")
    return timed


def _on_gpu(model: PreTrainedModel, batch: Batch) -> Pass:
    torch.cuda.synchronize(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    others = torch.cuda.memory_allocated(model.device) - weight_bytes(model)
    milliseconds = _milliseconds(model, batch)
    return Pass(milliseconds, torch.cuda.max_memory_allocated(model.device) - others)


def _milliseconds(model: PreTrainedModel, batch: Batch) -> float:
    start = time.perf_counter()
    model(**batch.inputs)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return (time.perf_counter() - start) * 1000


def _speed(model: PreTrainedModel, batch: Batch, tokens: int, passes: Sequence[Pass]) -> Speed:
    peaks = [timed.peak_bytes for timed in passes if timed.peak_bytes is not None] or [peak_bytes(model, batch)]
    return Speed(batch.num_examples, tokens, _median(passes), max(peaks))


def _median(passes: Sequence[Pass]) -> float:
    return statistics.median(timed.milliseconds for timed in passes)
