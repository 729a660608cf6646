"""The task's named evaluation sets: the same task in other places, such as another domain."""

from collections.abc import Iterable
from dataclasses import replace

from service.schemas import MetricsPair, Task
from worker.data import Location, read_source
from worker.rows import Row
from worker.staging import StagedJob
from worker.subject import Measured, Subject, encode


def read(task: Task, location: Location) -> dict[str, list[Row]]:
    """The rows of each set of a resolved task. Raises as `worker.data.load_rows` does."""
    return {name: read_source(source, _param(name), task, location) for name, source in task.evaluations.items()}


def subjects(staged: StagedJob, subject: Subject, sets: dict[str, list[Row]]) -> list[Subject]:
    """The subject with the rows of each set in place of its evaluation rows."""
    tokens = staged.settings.tokens_per_batch
    found = (encode(rows, _param(name), subject.wording, subject.padding, tokens) for name, rows in sets.items())
    return [replace(subject, evaluation=examples) for examples in found]


def pairs(names: Iterable[str], dense: Iterable[Measured], slim: Iterable[Measured]) -> dict[str, MetricsPair]:
    """What was measured on each set, by its name."""
    return {
        name: MetricsPair(dense=before.metrics, slim=now.metrics)
        for name, before, now in zip(names, dense, slim, strict=True)
    }


def _param(name: str) -> str:
    return f"task.evaluations.{name}"
