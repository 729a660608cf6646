"""Jobs up to the measurement of their unit scores, with a store of scores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support.pipeline_jobs import LABELS, WORDS, write_rows
from tests.support.prepared_jobs import prepare
from tests.support.progress import IgnoredProgress
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.scores.attribution import attribute, step_ratios
from worker.stages.scores.cache import ScoreCache
from worker.stages.task_model import TaskModel

STEPS: dict[str, Any] = {"steps": 2, "scope": "global"}


@dataclass
class ScoringJobs:
    """A checkpoint, rows and a store of scores, with jobs that use them up to their first measurement."""

    root: Path
    settings: Settings
    storage: Storage
    store: ScoreSets
    measured: int = field(default=0, init=False)

    def rows(self, count: int = 16, name: str = "rows", first: str = "good") -> str:
        """The URI of a file of rows."""
        lines = [{"text": f"{WORDS[row % 7]} {WORDS[row % 5]}", "label": row % 2} for row in range(count)]
        lines[0]["text"] = first
        return write_rows(self.root / f"{name}.jsonl", lines)

    def request(self, task: dict[str, Any] | None = None, **fields: Any) -> JobRequest:
        asked = {"template": "{text}:", "labels": LABELS, "calibration": {"uri": self.rows()}} | (task or {})
        fixed = {"model": {"uri": (self.root / "llama").as_uri()}, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
        return JobRequest.model_validate(fixed | {"task": asked} | fields)

    def cache(self, request: JobRequest, tenant: str = "default", **digests: str) -> tuple[ScoreCache, TaskModel]:
        """The score cache of a new job, and its model with the task in tokens."""
        job = prepare(new_record(request, tenant=tenant), self.root, self.settings, self.storage, IgnoredProgress())
        found = job.sources.digests | digests
        return ScoreCache(job.context, found, job.sources.fingerprints, self.store), job.task_model

    def path(self, request: JobRequest, **more: Any) -> tuple[ScoreCache, ScorePath]:
        """The unit scores of a job; `measured` counts how often they were not found in the store."""
        cache, task_model = self.cache(request, **more)
        ratios = step_ratios(request)

        def measure() -> ScorePath:
            self.measured += 1
            return attribute(cache.context, task_model, ratios)

        return cache, cache.path(task_model, ratios, measure)

    def digest(self, request: JobRequest, **more: Any) -> str:
        """The digest of the unit scores of a request."""
        cache, task_model = self.cache(request, **more)
        return cache.units_key(task_model, step_ratios(request)).digest


def alike(one: ScorePath, other: ScorePath) -> bool:
    return one.ratios == other.ratios and all(
        torch.equal(mine[site], yours[site])
        for mine, yours in zip(one.scores, other.scores, strict=True)
        for site in mine.keys() | yours.keys()
    )
