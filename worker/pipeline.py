"""The stages of a job, in order, each a function of what the stages before it left."""

from pathlib import Path
from typing import Protocol

from service.records import JobRecord
from service.schemas import Result, Stage
from service.settings import Settings
from service.storage import Storage


class StageProgress(Protocol):
    """Where a running job is. Every method may raise in order to end the attempt: cancelled, lease lost, deadline."""

    def stage(self, stage: Stage) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units ("examples", "bytes") of the present stage are done; cheap enough for every batch."""


def run(job: JobRecord, *, settings: Settings, storage: Storage, progress: StageProgress, scratch: Path) -> Result:
    """Slim the job's model for its task and leave the artifacts in storage, the manifest last.

    `scratch` is an empty directory for this attempt alone; the caller removes it. Raises the errors of
    `service.errors` for what the user can change, and whatever `progress` raises.
    """
    raise NotImplementedError
