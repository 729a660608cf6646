"""The tasks of a union beside the first: rows and figures of their own on the one model that is slimmed for all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from service.contract.errors import blaming_task
from service.contract.presets import resolve
from service.contract.report import ChangedAnswer, Confusion
from service.contract.request import Task
from service.contract.result import Estimate, Metrics
from service.contract.rows import Row
from worker.checkpoints.loading import LoadedModel
from worker.data import loading
from worker.data.loading import Location
from worker.evaluation.metrics import wilson
from worker.stages.context import JobContext
from worker.stages.task_model import TaskModel, encode_task

# Both models' answers by label, and those that changed.
Compared = tuple[Confusion | None, list[ChangedAnswer]]


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task, and where the request has it."""

    place: str
    task: Task  # resolved
    calibration: list[Row]
    evaluation: list[Row]


def read(tasks: Mapping[str, Task], location: Location) -> list[TaskRows]:
    """The rows of each task but the first. Raises as `worker.data.loading.load_rows` does."""
    found = []
    for place, task in list(tasks.items())[1:]:
        with blaming_task(place):
            resolved = resolve(task)
            found.append(TaskRows(place, resolved, *loading.load_rows(resolved, location)))
    return found


def task_models(context: JobContext, loaded: LoadedModel, partners: Sequence[TaskRows]) -> dict[str, TaskModel]:
    """The model with each task in tokens, by title. Raises InvalidLabels and its like."""
    found = {}
    for partner in partners:
        with blaming_task(partner.place):
            asked = encode_task(context, loaded, partner.task, partner.calibration, partner.evaluation)
            found[partner.task.title] = asked
    return found


def calibrated_on_all(task_model: TaskModel, partners: Iterable[TaskModel]) -> TaskModel:
    """The subject with the calibration rows of its partners too, for a repair that serves all of them."""
    partners = list(partners)
    if not partners:
        return task_model
    sets = [each.calibration for each in (task_model, *partners)]
    together = replace(
        task_model.calibration,
        examples=[example for examples in sets for example in examples.examples],
        batches=[batch for examples in sets for batch in examples.batches],
        shortened=sum(examples.shortened for examples in sets),
        moments={},
    )
    return replace(task_model, calibration=together)


def pooled(metrics: Sequence[Metrics]) -> Metrics:
    """The figures over the rows of all tasks; those of a single task as they are."""
    if len(metrics) == 1:
        return metrics[0]
    return Metrics(
        examples=sum(each.examples for each in metrics),
        accuracy=_share([(each.accuracy, each.examples) for each in metrics]),
        calibrated_accuracy=_share([(each.calibrated_accuracy, each.examples) for each in metrics]),
        majority=_mean([(each.majority, each.examples) for each in metrics]),
        log_likelihood=_mean([(each.log_likelihood, each.examples) for each in metrics]),
        exact_match=_share([(each.exact_match, each.examples) for each in metrics]),
        token_log_likelihood=_mean([(each.token_log_likelihood, each.examples) for each in metrics]),
        repetition=_mean([(each.repetition, each.examples) for each in metrics]),
    )


def together(found: Sequence[Compared], titles: Sequence[str]) -> Compared:
    """Of several tasks: the confusion block by block, its labels and the changed answers with the title of each."""
    if len(found) == 1:
        return found[0]
    named = [_named(title, *each) for title, each in zip(titles, found, strict=True)]
    matrices = [confusion for confusion, _ in named if confusion is not None]
    changed = [row for _, rows in named for row in rows]
    if not matrices:
        return None, changed
    labels = [label for matrix in matrices for label in matrix.labels]
    dense, slim = (_blocks([getattr(matrix, which) for matrix in matrices]) for which in ("dense", "slim"))
    return Confusion(labels=labels, dense=dense, slim=slim), changed


def _named(title: str, confusion: Confusion | None, changed: Sequence[ChangedAnswer]) -> Compared:
    if confusion is not None:
        confusion = confusion.model_copy(update={"labels": [f"{title}: {label}" for label in confusion.labels]})
    return confusion, [row.model_copy(update={"task": title}) for row in changed]


def _blocks(matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    """The matrices along the diagonal of one that is zero elsewhere."""
    size, rows, before = sum(map(len, matrices)), [], 0
    for matrix in matrices:
        after = size - before - len(matrix)
        rows += [[0] * before + row + [0] * after for row in matrix]
        before += len(matrix)
    return rows


def _share(estimates: Sequence[tuple[Estimate | None, int]]) -> Estimate | None:
    """The share of right answers over all rows, counted from the shares."""
    known = [(estimate.value, examples) for estimate, examples in estimates if estimate is not None]
    if not known:
        return None
    return wilson(sum(round(value * examples) for value, examples in known), sum(examples for _, examples in known))


def _mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean over all rows."""
    known = [(value, examples) for value, examples in values if value is not None]
    return sum(value * examples for value, examples in known) / sum(n for _, n in known) if known else None
