"""The task's named evaluation sets: the same task in other places, such as another domain."""

from dataclasses import replace

from service.contract.request import Task
from service.contract.rows import Row
from worker.data.loading import Location, read_source
from worker.stages.context import JobContext
from worker.stages.task_model import TaskModel, encode


def read(task: Task, location: Location) -> dict[str, list[Row]]:
    """The rows of each set of a resolved task. Raises as `worker.data.batching.load_rows` does."""
    return {name: read_source(source, _param(name), task, location) for name, source in task.evaluations.items()}


def task_models(context: JobContext, task_model: TaskModel, sets: dict[str, list[Row]]) -> dict[str, TaskModel]:
    """The subject with the rows of each set in place of its evaluation rows."""
    tokens = context.settings.tokens_per_batch
    return {
        name: replace(task_model, evaluation=encode(rows, _param(name), task_model.wording, task_model.padding, tokens))
        for name, rows in sets.items()
    }


def _param(name: str) -> str:
    return f"task.evaluations.{name}"
