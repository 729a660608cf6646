"""Runs jobs through the pipeline of the worker on tiny checkpoints, without Redis and without an attempt."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.contract.answers.job import Stage
from service.contract.answers.resources import Manifest
from service.contract.answers.result import Result
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.keys import attempt_prefix, manifest_key
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.brief_timing import timing_briefly
from tests.support.quick_verification import verifying_here
from worker import pipeline

LABELS = {"1": "positive", "0": "negative"}
WORDS = ("good", "bad", "film", "plot", "dog", "fox", "lazy", "quick")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as JSON Lines; the URI of the file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.as_uri()


@dataclass
class Recorder:
    """Records the reported progress, and ends the attempt at the stage `end_in`."""

    stages: list[Stage] = field(default_factory=list)
    advances: list[tuple[Stage, int, int, str]] = field(default_factory=list)
    end_in: Stage | None = None

    def stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def advance(self, done: int, total: int, unit: str) -> None:
        if self.stages[-1] is self.end_in:
            raise InterruptedError
        self.advances.append((self.stages[-1], done, total, unit))


@dataclass
class Deployment:
    """An object store, a checkpoint and rows in a directory of its own."""

    root: Path
    tokens_per_batch: int = 256
    device: str = "cpu"

    @property
    def storage(self) -> Storage:
        return Storage((self.root / "artifacts").as_uri())

    def rows(self, count: int, name: str = "rows") -> str:
        """The URI of a file with `count` rows, whose first word decides the label."""
        lines = [
            {
                "text": f"{WORDS[row % 2]} {WORDS[row % 7]} {WORDS[row % 5]}",
                "label": row % 2,
                "target": WORDS[row % 3],
            }
            for row in range(count)
        ]
        return write_rows(self.root / f"{name}.jsonl", lines)

    def request(self, family: str = "llama", task: dict[str, Any] | None = None, **fields: Any) -> JobRequest:
        model = self.root / family
        if not model.exists():
            checkpoints.write(model, family)
        asked = {"template": "{text}:", "labels": LABELS, "calibration": {"uri": self.rows(30)}} | (task or {})
        request = {"model": {"uri": model.as_uri()}, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
        return JobRequest.model_validate(request | {"task": asked} | fields)

    def run(
        self, request: JobRequest, progress: Recorder | None = None, attempt: int = 1, *, fresh_process: bool = False
    ) -> Result:
        """Run a job. Its checkpoint is verified in this process, unless asked otherwise."""
        self.job = new_record(request).model_copy(update={"attempt": attempt})
        self.scratch = self.root / "scratch" / self.job.id
        self.scratch.mkdir(parents=True)
        settings = Settings(state=self.root, device=self.device, tokens_per_batch=self.tokens_per_batch)
        with timing_briefly(), nullcontext() if fresh_process else verifying_here():
            return pipeline.run(
                self.job, settings=settings, storage=self.storage, progress=progress or Recorder(), scratch=self.scratch
            )

    def download(self, directory: Path) -> Manifest:
        """Download every file in the manifest of the last job."""
        manifest = Manifest.model_validate_json(self.storage.get_bytes(manifest_key("default", self.job.id)))
        for file in manifest.files:
            (directory / file.name).parent.mkdir(parents=True, exist_ok=True)
            prefix = attempt_prefix("default", self.job.id, manifest.attempt)
            self.storage.get_file(prefix + file.name, directory / file.name)
        return manifest
