"""A cache of measurements in the tenant's score sets: found there they are reused, else taken and stored.

A measurement has a digest of everything that it depends on: the contents of the model's and the adapter's files, the
rows as the model reads them (tokens and right answers), the wording, the method as far as it changes scores, the kind
of device, and the versions of the packages that compute. It does not depend on the target or the repair.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from service.contract.answers.resources import MeasuredScores, ScoreKind
from service.sources.fingerprints import Fingerprints, digest, scoring, wording
from service.storage.score_sets import ScoreSets
from worker.data.examples import Example
from worker.data.provenance import computing_versions, digest_examples
from worker.data.wordings import as_run
from worker.evaluation.answers import Answers
from worker.slimming.scoring.attribution import Measure
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.scores.files import FORMATS, pack_answers, pack_path, unpack_answers, unpack_path
from worker.stages.shards.parts import Parts
from worker.stages.task_model import KeyT, TaskModel, answer_all

log = structlog.get_logger()


@dataclass
class ScoreCache:
    """The measurements of one job: unit scores, and the dense model's answers to evaluation rows."""

    context: JobContext
    digests: Mapping[str, str]  # of the model's and the adapter's files
    fingerprints: Fingerprints | None  # of the request
    store: ScoreSets | None  # None: every measurement is taken, and none is stored
    parts: Parts | None = None  # of the measurements, that the shards of the job have taken
    paths: dict[str, bool] = field(default_factory=dict, init=False)  # digest of unit scores -> whether they were found
    tasks: dict[str, str] = field(default_factory=dict, init=False)  # title of a task -> digest of its unit scores
    evaluations: dict[str, bool] = field(default_factory=dict, init=False)  # digest of answers -> whether found

    def answer(self, task_model: TaskModel) -> Answers:
        """The dense model's answers to its evaluation rows."""
        return self.answer_all({None: task_model})[None]

    def answer_all(self, task_models: Mapping[KeyT, TaskModel]) -> dict[KeyT, Answers]:
        """The answers of each dense model to its evaluation rows, under the key of the model, without label offsets."""
        keys = {key: self._rows_key(task_model) for key, task_model in task_models.items()}
        found = {key: content for key, name in keys.items() if (content := self._find(name)) is not None}
        missing = {key: task_model for key, task_model in task_models.items() if key not in found}
        taken = self.parts.answer_all(missing) if self.parts else answer_all(self.context, missing)
        for key, answers in taken.items():
            self._add(keys[key], pack_answers(answers, keys[key].about), missing[key], ScoreKind.rows)
        for key, name in keys.items():
            self.evaluations.setdefault(name.digest, key in found)
        return {key: unpack_answers(found[key]) if key in found else taken[key] for key in task_models}

    def path(
        self,
        task_model: TaskModel,
        ratios: Sequence[float],
        measure: Callable[[], ScorePath],
        general: TaskModel | None = None,
    ) -> ScorePath:
        """The unit scores on the calibration rows of the task, taken at `ratios`; `measure` takes them.

        `general` has the general rows that they depend on.
        """
        key = self.units_key(task_model, ratios, general)
        content = self._find(key)
        path = unpack_path(content) if content is not None else measure()
        if content is None:
            self._add(key, pack_path(path, key.about), task_model, ScoreKind.units, path.ratios)
        if self.store is not None:
            self.paths[key.digest] = content is not None
            self.tasks[task_model.wording.task.title] = key.digest
            self._note()
        return path

    def measured(self, task_model: TaskModel) -> Measure | None:
        """Scores the units from what the shards of the job have measured; None where no shards have."""
        return self.parts.measure_of(task_model) if self.parts else None

    def has_answers(self, task_model: TaskModel) -> bool:
        """Whether the dense model's answers to its evaluation rows are stored."""
        return self._has(self._rows_key(task_model))

    def has_path(self, task_model: TaskModel, ratios: Sequence[float]) -> bool:
        """Whether the unit scores on the calibration rows of the task, taken at `ratios`, are stored."""
        return self._has(self.units_key(task_model, ratios))

    def _has(self, key: "Key") -> bool:
        return self.store is not None and self.store.exists(self._tenant, key.digest)

    def _note(self) -> None:
        """Record under the request's fingerprints which score sets serve it, once those of every task are stored."""
        if (
            self.store is None
            or self.fingerprints is None
            or len(self.tasks) < len(self.context.job.request.slimmed_for)
        ):
            return
        self.store.note(self._tenant, self.fingerprints.units, list(self.tasks.values()), days=self._days)
        if self.evaluations:
            self.store.note(self._tenant, self.fingerprints.rows, list(self.evaluations), days=self._days)

    def outcome(self) -> dict[str, Any]:
        """The fields of the result about reuse; a union's scores count as reused where those of every task are."""
        return {
            "scores": next(iter(self.paths), None),
            "task_scores": self.tasks if len(self.tasks) > 1 else {},
            "scores_reused": bool(self.paths) and all(self.paths.values()),
            "evaluation_reused": bool(self.evaluations) and all(self.evaluations.values()),
        }

    # --- keys

    def units_key(self, task_model: TaskModel, ratios: Sequence[float], general: TaskModel | None = None) -> "Key":
        """The key of the unit scores on the calibration rows, taken at `ratios`."""
        request = self.context.job.request
        method = scoring(request.method, self.context.task.kind)
        output = request.output
        # With several steps the selection decides on which units the later scores are taken.
        path = [list(ratios), output.round_to, output.layout] if len(ratios) > 1 else None
        more = {"method": method, "path": path}
        if general is not None:
            more["general"] = [general.kind, digest_examples(general.calibration.examples)]
        return self._key(ScoreKind.units, task_model, task_model.calibration.examples, more)

    def _rows_key(self, task_model: TaskModel) -> "Key":
        how = task_model.decoding
        more = {"decoding": how and how.model_dump()}
        return self._key(ScoreKind.rows, task_model, task_model.evaluation.examples, more)

    def _key(
        self, kind: ScoreKind, task_model: TaskModel, examples: Sequence[Example], more: Mapping[str, Any]
    ) -> "Key":
        about = {
            "task": wording(as_run(task_model.wording)),
            "digests": dict(self.digests) | {"rows": digest_examples(examples)},
            "versions": computing_versions(),
            "device": task_model.loaded.model.device.type,
            **more,
        }
        return Key(digest({"format": FORMATS[kind]} | about), about, len(examples))

    # --- the store

    def _find(self, key: "Key") -> bytes | None:
        if self.store is None:
            return None
        content = self.store.content(self._tenant, key.digest)
        if content is not None:
            self.store.keep(self._tenant, key.digest, days=self._days)
            log.info("reusing a stored score set", digest=key.digest)
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
    """The digest of a measurement, and what the digest was made of."""

    digest: str
    about: Mapping[str, Any]
    rows: int
