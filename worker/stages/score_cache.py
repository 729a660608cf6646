"""What earlier jobs have measured: taken from the tenant's score sets where it is there, else measured and stored.

A digest names a measurement by everything that it depends on: the contents of the model's and the adapter's files, the
rows as the model reads them (tokens and right answers), the wording, the method as far as it changes scores, the kind
of device, and the versions of what computes. Neither the target nor the repair is among them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import structlog

from service.contract.resources import MeasuredScores, ScoreKind
from service.sources.fingerprints import Fingerprints, digest, scoring, wording
from service.storage.score_sets import ScoreSets
from worker.data import prompts
from worker.data.prompts import Example
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.score_files import FORMAT, pack_measured, pack_path, unpack_measured, unpack_path
from worker.stages.task_model import Measured, TaskModel, evaluate

PACKAGES = ("taskslim", "torch", "transformers", "tokenizers", "peft")

log = structlog.get_logger()


@dataclass
class ScoreCache:
    """The measurements of one job."""

    context: JobContext
    digests: Mapping[str, str]  # of the model's and the adapter's files
    fingerprints: Fingerprints | None  # of the request
    store: ScoreSets | None  # None: everything is measured, and nothing is stored
    paths: dict[str, bool] = field(default_factory=dict, init=False)  # digest -> whether it was there, the first first
    tasks: dict[str, str] = field(default_factory=dict, init=False)  # title of a task -> digest of its unit scores
    evaluations: list[bool] = field(default_factory=list, init=False)  # whether each was there
    answers: list[str] = field(default_factory=list, init=False)  # the digest of each

    def evaluate(self, task_models: Sequence[TaskModel]) -> list[Measured]:
        """The dense model on the evaluation rows of each subject."""
        keys = [self._rows_key(task_model) for task_model in task_models]
        stored = [self._find(key) for key in keys]
        missing = [task_model for task_model, content in zip(task_models, stored, strict=True) if content is None]
        fresh = iter(evaluate(self.context, missing))
        self.evaluations += [content is not None for content in stored]
        self.answers += [key.digest for key in keys]
        found = []
        for task_model, key, content in zip(task_models, keys, stored, strict=True):
            measured = unpack_measured(content) if content is not None else next(fresh)
            if content is None:
                self._add(key, pack_measured(measured, key.about), task_model, ScoreKind.rows)
            found.append(measured)
        return found

    def path(self, task_model: TaskModel, ratios: Sequence[float], measure: Callable[[], ScorePath]) -> ScorePath:
        """The unit scores on the subject's calibration rows, taken at `ratios`."""
        key = self.units_key(task_model, ratios)
        content = self._find(key)
        path = unpack_path(content) if content is not None else measure()
        if content is None:
            self._add(key, pack_path(path, key.about), task_model, ScoreKind.units, path.ratios)
        if self.store is not None:
            self.paths[key.digest] = content is not None
            self.tasks[task_model.wording.task.title] = key.digest
            self._note()
        return path

    def _note(self) -> None:
        """Tell plans of the sets, once there are those of every task."""
        if (
            self.store is None
            or self.fingerprints is None
            or len(self.tasks) < len(self.context.job.request.slimmed_for)
        ):
            return
        self.store.note(self._tenant, self.fingerprints.units, list(self.tasks.values()), days=self._days)
        if self.answers:
            self.store.note(self._tenant, self.fingerprints.rows, self.answers, days=self._days)

    def outcome(self) -> dict[str, Any]:
        """The fields of the result that say what was reused: everything, or not everything."""
        return {
            "scores": next(iter(self.paths), None),
            "task_scores": self.tasks if len(self.tasks) > 1 else {},
            "scores_reused": bool(self.paths) and all(self.paths.values()),
            "evaluation_reused": bool(self.evaluations) and all(self.evaluations),
        }

    # --- keys

    def units_key(self, task_model: TaskModel, ratios: Sequence[float]) -> "Key":
        request = self.context.job.request
        method = scoring(request.method, self.context.task.kind)
        output = request.output
        # With several steps the selection decides what the later scores see.
        path = [list(ratios), output.round_to, output.layout] if len(ratios) > 1 else None
        return self._key(task_model, task_model.calibration.examples, {"method": method, "path": path})

    def _rows_key(self, task_model: TaskModel) -> "Key":
        return self._key(task_model, task_model.evaluation.examples, {"answered": task_model.evaluation.answered})

    def _key(self, task_model: TaskModel, examples: Sequence[Example], more: Mapping[str, Any]) -> "Key":
        about = {
            "task": wording(prompts.as_run(task_model.wording)),
            "digests": dict(self.digests) | {"rows": digest_examples(examples)},
            "versions": {package: version(package) for package in PACKAGES},
            "device": task_model.loaded.model.device.type,
            **more,
        }
        return Key(digest({"format": FORMAT} | about), about, len(examples))

    # --- the store

    def _find(self, key: "Key") -> bytes | None:
        if self.store is None:
            return None
        content = self.store.content(self._tenant, key.digest)
        if content is not None:
            self.store.keep(self._tenant, key.digest, days=self._days)
            log.info("scores reused", digest=key.digest)
        return content

    def _add(
        self, key: "Key", content: bytes, task_model: TaskModel, kind: ScoreKind, ratios: Sequence[float] = ()
    ) -> None:
        if self.store is None:
            return
        measured = MeasuredScores(
            digest=key.digest,
            kind=kind,
            job_id=self.context.job.id,
            model=self.context.job.request.model,
            family=task_model.loaded.family.model_type,
            method=self.context.job.request.method if kind is ScoreKind.units else None,
            ratios=list(ratios),
            rows=key.rows,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            created_at=datetime.now(UTC),
            **{name: key.about[name] for name in ("task", "digests", "versions", "device")},
        )
        self.store.add(self._tenant, measured, content, days=self._days)

    @property
    def _tenant(self) -> str:
        return self.context.job.tenant

    @property
    def _days(self) -> float:
        return self.context.job.request.retention_days or self.context.settings.retention_days


@dataclass(frozen=True)
class Key:
    """The name of a measurement, and what it was made of."""

    digest: str
    about: Mapping[str, Any]
    rows: int


def digest_examples(examples: Sequence[Example]) -> str:
    """sha256 over the tokens of every prompt and candidate and over the right answers, in the order of the rows."""
    content = hashlib.sha256()
    for example in examples:
        content.update(json.dumps([example.prompt, example.candidates, example.answer, example.text]).encode())
    return content.hexdigest()
