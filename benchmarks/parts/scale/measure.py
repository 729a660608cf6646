"""Seconds and peak memory of the parts of scoring, each in a process of its own.

On a CPU the seconds are those of the processor, which other processes change little, and the memory is the largest
resident set above that of the process before it has made the model. On a GPU they are those of a clock, and what torch
has allocated there.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts.scale.shapes import Shape, batches, model
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.partial_sums import Scoring, measure, score
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Group

STATUS = Path("/proc/self/status")
SMALLEST = Shape(hidden=64, width=64, layers=1, vocabulary=64, rows=2, length=8)
PARTS = ("attribution", "moments", "elimination")


@dataclass
class Part:
    """What one part of scoring has cost."""

    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass
class Cost:
    """What each part has cost; `missing` says why others were not run."""

    parts: dict[str, Part] = field(default_factory=dict)
    missing: str = ""


def in_a_process(shape: Shape, parts: tuple[str, ...] = PARTS, *, gpu: bool = False, layers: int | None = None) -> Cost:
    """Measure in a forked process, which begins with the memory that this one has.

    `layers`: the elimination of this many alone. Raises RuntimeError where the process fails.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        found = _measured(shape, parts, torch.device("cuda" if gpu else "cpu"), layers)
        os.write(writing, json.dumps({name: vars(part) for name, part in found.items()}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise RuntimeError(f"the measurement of {shape} ended with status {status}")
    return Cost({name: Part(**values) for name, values in json.loads(text).items()})


def _measured(shape: Shape, parts: tuple[str, ...], device: torch.device, layers: int | None) -> dict[str, Part]:
    torch.set_num_threads(1)
    if shape != SMALLEST:
        _measured(SMALLEST, PARTS, device, None)  # loads what a first pass loads
    meter = Meter(device)
    made, rows = model(shape, device), batches(shape, device)
    scoring = Scoring(made, ARCHITECTURES["llama"], ["ffn"], "surgeon", Options())
    if "attribution" in parts:
        with meter.measuring("attribution"):
            attribution.score(made, scoring.architecture, ["ffn"], rows, "attribution", Options())
    if "moments" in parts:
        found: dict[str, Moments] = {}
        with meter.measuring("moments"):
            sums = measure(scoring, rows, _into(found))
        if "elimination" in parts:
            chosen = scoring if layers is None else _of_layers(scoring, layers)
            with meter.measuring("elimination"):
                score(chosen, sums, lambda group: found[group.module])
    return meter.found


def _into(found: dict[str, Moments]) -> Callable[[Group, Moments], None]:
    return lambda group, moments: found.update({group.module: moments})


def _of_layers(scoring: Scoring, count: int) -> Scoring:
    """The scoring of the first layers alone."""
    scoring.model.model.layers = scoring.model.model.layers[:count]  # type: ignore[union-attr, index]
    return scoring


class Meter:
    """Measures parts one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.found = device, dict[str, Part]()
        self._before = 0 if device.type == "cuda" else _resident("VmRSS")

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Measure the block."""
        self._reset()
        start = self._now()
        yield
        self.found[name] = Part(round(self._now() - start, 4), self._peak())

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def _reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident set begins again

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return _resident("VmHWM") - self._before


def _resident(name: str) -> int:
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def as_json(cost: Cost) -> dict[str, Any]:
    """The cost for the file of results."""
    parts: dict[str, Any] = {name: vars(part) for name, part in cost.parts.items()}
    return parts | ({"missing": cost.missing} if cost.missing else {})
