"""The report of a job: what was asked, what was done, what it was done with, and how to use the outcome."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.job_record import JobRecord
from service.model_files import is_wanted
from service.schemas import (
    Ancestor,
    Family,
    OwnAnswers,
    Report,
    Result,
    Runtime,
    StageTiming,
    TaskWording,
)
from service.storage import digest_file
from worker.answers import MAX_CHANGED
from worker.findings import Findings
from worker.rows import Row
from worker.warnings import warnings

PACKAGES = ("taskslim", "torch", "transformers", "tokenizers", "safetensors", "peft")

# In a resolved task they are in storage, and stay there.
ROWS: Any = {"calibration": {"rows"}, "evaluation": {"rows"}, "evaluations": {"__all__": {"rows"}}}


def build(
    job: JobRecord,
    *,
    task: TaskWording,
    tasks: Mapping[str, TaskWording],
    family: Family,
    result: Result,
    options: dict[str, str | int],
    calibration_examples: int,
    shortened_prompts: int,
    own_answers: OwnAnswers | None,
    timings: Sequence[StageTiming],
    digests: dict[str, str],
    lineage: list[Ancestor],
    snippet: str,
    findings: Findings,
    loads: Sequence[Runtime],
) -> Report:
    """The report with its warnings; `timings` has the stages that are over by now."""
    report = Report(
        job_id=job.id,
        attempt=job.attempt,
        request=job.request,
        task=task.model_dump(mode="json", exclude=ROWS),
        tasks={title: each.model_dump(mode="json", exclude=ROWS) for title, each in tasks.items()},
        family=family.model_type,
        result=result,
        options=dict(options),
        calibration_examples=calibration_examples,
        shortened_prompts=shortened_prompts,
        own_answers=own_answers,
        timings=list(timings),
        versions=versions(),
        digests=digests,
        lineage=lineage,
        snippet=snippet,
        runtimes=list(loads),
        throughput=findings.throughput,
        peak_memory_bytes=findings.peak_memory_bytes,
        layers=findings.layers,
        confusion=findings.confusion,
        num_changed=len(findings.changed),
        changed=findings.changed[:MAX_CHANGED],
    )
    return report.model_copy(update={"warnings": warnings(report)})


def versions() -> dict[str, str]:
    """What decides the bits of a checkpoint beside the model: package -> version."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def digest_directory(directory: Path) -> str:
    """sha256 over the files that make a model or adapter what it is, by name and content, wherever it lies."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and is_wanted(path.name))
    return _digest([[path.name, digest_file(path)] for path in files])


def digest_rows(rows: Sequence[Row]) -> str:
    """sha256 over the rows in their order."""
    return _digest([row.values for row in rows])


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(content: object) -> str:
    return digest_text(json.dumps(content, sort_keys=True, default=str))
