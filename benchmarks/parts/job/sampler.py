"""What the main thread of a process does, sampled: seconds and CPU seconds for each kind of work.

A sample belongs to the first kind in `KINDS` that one of its frames shows; `forward` before `fit` therefore counts a
pass that a repair makes as a pass. Imports come first, whatever caused them.
"""

import os
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import psutil

from worker.checkpoints.verification import COMPARES

INTERVAL_SECONDS = 0.01
CHECKPOINT = "checkpoint in a fresh process"


class Place(NamedTuple):
    """A part of a file's path, and the functions in it; none stand for all."""

    path: str
    functions: tuple[str, ...] = ()

    def shows(self, frame: FrameType) -> bool:
        """Whether the frame is at this place."""
        code = frame.f_code
        return self.path in code.co_filename and (not self.functions or code.co_name in self.functions)


KINDS: Mapping[str, tuple[Place, ...]] = {
    "imports": (Place("<frozen importlib._bootstrap>"),),
    "backward": (Place("torch/autograd/", ("backward", "grad", "_engine_run_backward")),),
    "forward": (Place("/modeling_"), Place("torch/nn/modules/module.py", ("_call_impl",))),
    "fit": (
        Place("worker/slimming/repair/"),
        Place("worker/recovery/"),
        Place("worker/evaluation/", ("fit",)),
    ),
    "write": (Place("worker/checkpoints/saving.py"), Place("worker/reporting/artifacts.py", ("upload",))),
    CHECKPOINT: (Place("worker/checkpoints/fresh_process.py"),),
    "load": (
        Place("worker/checkpoints/loading.py", ("load_model",)),
        Place("worker/sources/fetching.py"),
        Place("worker/slimming/surgery/slicing.py"),
    ),
    "hash": (Place("object_store.py", ("digest_file",)),),
    "memory count": (Place("worker/evaluation/memory.py"),),
    "tokens": (Place("worker/data/"),),
    "metrics": (Place("worker/evaluation/"),),
    "selection": (Place("worker/slimming/"), Place("worker/search/")),
    "report": (Place("worker/reporting/"), Place("service/reports/")),
    "redis": (Place("/redis/"),),
}
WORK = ("load", "forward", "backward", "fit", "write")


def kind_of(frame: FrameType | None) -> str:
    """The kind of work that a stack shows; `other` where it shows none of them."""
    frames = list(_stack(frame))
    for kind, places in KINDS.items():
        if any(place.shows(each) for each in frames for place in places):
            return _of_fresh_process() if kind == CHECKPOINT else kind
    return "other"


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _of_fresh_process() -> str:
    """The process that verifies a checkpoint imports until it has its name; then it loads it and makes a pass."""
    names = {_name(child) for child in psutil.Process().children()}
    return "load" if COMPARES in names else "imports to verify"


def _name(child: psutil.Process) -> str:
    try:
        return child.name()
    except psutil.NoSuchProcess:
        return ""


class Sampler:
    """Samples the thread that makes it until it is stopped."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)  # of the thread, without other programs
        self._thread, self._stop = threading.get_ident(), threading.Event()
        self._cpu_clock = time.pthread_getcpuclockid(self._thread)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample during the block."""
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        before, cpu_before = time.perf_counter(), time.clock_gettime(self._cpu_clock)
        while not self._stop.wait(INTERVAL_SECONDS):
            kind = kind_of(sys._current_frames().get(self._thread))
            now, cpu_now = time.perf_counter(), time.clock_gettime(self._cpu_clock)
            self.seconds[kind] += now - before
            self.cpu_seconds[kind] += cpu_now - cpu_before
            before, cpu_before = now, cpu_now


def resident_bytes() -> int:
    """The memory that the process holds now."""
    return psutil.Process(os.getpid()).memory_info().rss


def peak_resident_bytes() -> int:
    """The most memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
