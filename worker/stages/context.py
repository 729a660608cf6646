"""The context of a running job: its request, the services that its stages use, and how long the stages took."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.contract.answers.job import Stage
from service.contract.answers.report import StageTiming
from service.contract.errors import blaming_task
from service.contract.request.task import Task
from service.infrastructure.tracing import stage_span
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.object_store import Storage
from worker.checkpoints.fresh_process import FreshProcess
from worker.stages.memory.exhaustion import naming_exhaustion


class StageProgress(Protocol):
    """Receives the progress of a running job.

    Every method may raise to end the attempt: the job was cancelled, its lease was lost or its deadline has passed.
    """

    def stage(self, stage: Stage) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units ("examples", "bytes") of the present stage are done; cheap enough for every batch."""


@dataclass
class JobContext:
    """A running job: its record, the services and directories that its stages use, and the timings of past stages."""

    job: JobRecord
    task: Task  # the job's own task, resolved; of a union, the first
    settings: Settings
    storage: Storage
    progress: StageProgress
    scratch: Path
    timings: list[StageTiming] = field(default_factory=list)
    processes: ExitStack = field(default_factory=ExitStack)  # that the job has started; whoever runs it closes them
    verifier: FreshProcess | None = None  # one of them, which waits for a checkpoint to verify

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Reports the beginning of a stage and records its duration.

        Errors within that blame a field of `task` name the task's place in the request. Exhausted memory raises
        OutOfMemory.
        """
        self.progress.stage(stage)
        start = time.monotonic()
        place, budget = next(iter(self.job.request.placed_tasks)), self.settings.tokens_per_batch
        with stage_span(stage), blaming_task(place), naming_exhaustion(stage, budget):
            yield
        self.timings.append(StageTiming(stage=stage, seconds=round(time.monotonic() - start, 3)))

    def counter(self, total: int) -> Callable[[int], None]:
        """A callback that reports how many of `total` examples are done."""
        return lambda done: self.progress.advance(done, total, "examples")

    def on_bytes(self, done: int, total: int) -> None:
        """Reports how many bytes of a download or an upload are done."""
        self.progress.advance(done, total, "bytes")
