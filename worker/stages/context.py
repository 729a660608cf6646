"""A job on its way through the stages: what it may use, where it reports, how long it took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.contract.errors import blaming_task
from service.contract.job import Stage
from service.contract.report import StageTiming
from service.contract.request import Task
from service.infrastructure.tracing import stage_span
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.object_store import Storage


class StageProgress(Protocol):
    """Where a running job is. Every method may raise in order to end the attempt: cancelled, lease lost, deadline."""

    def stage(self, stage: Stage) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units ("examples", "bytes") of the present stage are done; cheap enough for every batch."""


@dataclass
class JobContext:
    """A job on its way through the stages: what it may use, and how long its stages took so far.

    `task` is the first of a union; errors that blame it name its place in the request.
    """

    job: JobRecord
    task: Task  # resolved
    settings: Settings
    storage: Storage
    progress: StageProgress
    scratch: Path
    timings: list[StageTiming] = field(default_factory=list)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Announces a stage and takes its time."""
        self.progress.stage(stage)
        start = time.monotonic()
        with stage_span(stage), blaming_task(next(iter(self.job.request.placed_tasks))):
            yield
        self.timings.append(StageTiming(stage=stage, seconds=round(time.monotonic() - start, 3)))

    def counter(self, total: int) -> Callable[[int], None]:
        """Hears how many of `total` examples are done."""
        return lambda done: self.progress.advance(done, total, "examples")

    def on_bytes(self, done: int, total: int) -> None:
        """Hears how many of how many bytes have come or gone."""
        self.progress.advance(done, total, "bytes")
