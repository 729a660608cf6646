"""Jobs up to the measurement of their unit scores, with a store of scores."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from service.contract import presets
from service.contract.request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support.progress import IgnoredProgress
from worker.slimming.scoring.iterative import ScorePath, schedule
from worker.stages import evaluation_sets, inputs
from worker.stages.attribution import attribute, highest_requested_ratio
from worker.stages.context import JobContext
from worker.stages.score_cache import ScoreCache
from worker.stages.task_model import TaskModel
from worker.stages.task_model import load as load_model

LABELS = {"1": "positive", "0": "negative"}
WORDS = ("good", "bad", "film", "plot", "dog", "fox", "lazy", "quick")
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
        path = self.root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path.as_uri()

    def request(self, task: dict[str, Any] | None = None, **fields: Any) -> JobRequest:
        asked = {"template": "{text}:", "labels": LABELS, "calibration": {"uri": self.rows()}} | (task or {})
        fixed = {"model": {"uri": (self.root / "llama").as_uri()}, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
        return JobRequest.model_validate(fixed | {"task": asked} | fields)

    def cache(self, request: JobRequest, tenant: str = "default", **digests: str) -> tuple[ScoreCache, TaskModel]:
        """The score cache of a new job, and its model with the task in tokens."""
        job = new_record(request, tenant=tenant)
        scratch = self.root / "scratch" / job.id
        scratch.mkdir(parents=True)
        context = JobContext(
            job, presets.resolve(request.slimmed_for[0]), self.settings, self.storage, IgnoredProgress(), scratch
        )
        sources = inputs.fetch(context)
        loaded = load_model(context, sources.model, sources.adapter)
        task_model = evaluation_sets.own(evaluation_sets.build(context, loaded, sources.rows[:1])).task_model
        return ScoreCache(context, sources.digests | digests, sources.fingerprints, self.store), task_model

    def path(self, request: JobRequest, **more: Any) -> tuple[ScoreCache, ScorePath]:
        """The unit scores of a job; `measured` counts how often they were not found in the store."""
        cache, task_model = self.cache(request, **more)
        ratios = schedule(highest_requested_ratio(request.target), request.method.steps)

        def measure() -> ScorePath:
            self.measured += 1
            return attribute(cache.context, task_model, ratios)

        return cache, cache.path(task_model, ratios, measure)

    def digest(self, request: JobRequest, **more: Any) -> str:
        """The digest of the unit scores of a request."""
        cache, task_model = self.cache(request, **more)
        return cache.units_key(
            task_model, schedule(highest_requested_ratio(request.target), request.method.steps)
        ).digest


def alike(one: ScorePath, other: ScorePath) -> bool:
    return one.ratios == other.ratios and all(
        torch.equal(mine[site], yours[site])
        for mine, yours in zip(one.scores, other.scores, strict=True)
        for site in mine.keys() | yours.keys()
    )
