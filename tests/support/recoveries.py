"""A cut tiny model with a learnable task, before its recovery."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.searches import SearchJob, search_job
from worker.recovery.recovered import Recovered
from worker.stages.evaluation.evaluation_sets import EvaluationSet, Role
from worker.stages.recovery import recover, with_rows_held_out
from worker.stages.task_model import TaskModel

FAST: dict[str, Any] = {"method": "lora", "rank": 4, "learning_rate": 0.003, "epochs": 12, "batch_size": 8}


@dataclass(frozen=True)
class RecoveryJob:
    """A job whose model is cut, and not trained yet."""

    job: SearchJob
    cut: TaskModel

    def recover(self, on_step: Callable[[int, int], None] = lambda done, total: None) -> Recovered:
        """The recovered model."""
        dense = self.job.task_model
        return recover(self.job.context, self.cut, [dense], lambda: dense.loaded.model, on_step)


def recovery_job(
    root: Path, family: str = "llama", recovery: dict[str, Any] | None = None, **fields: Any
) -> RecoveryJob:
    """A job with half of the units cut away; `recovery` replaces fields of a quick training."""
    job = search_job(root, family, num_rows=16, recovery=FAST | (recovery or {}), **fields)
    [held_out] = with_rows_held_out(job.context, [EvaluationSet(Role.task, "own", [], job.task_model)])
    job = replace(job, task_model=held_out.task_model)
    candidates = job.candidates()
    return RecoveryJob(job, candidates.slim_copy(candidates.at(0.5)))
