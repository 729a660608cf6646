"""Tasks that a job does not slim for, measured before and after: what the slim model has given up."""

from collections.abc import Sequence

from service.contract.errors import blaming_task
from service.contract.presets import resolve
from service.contract.request import ObservedTask
from service.contract.rows import Row
from worker.checkpoints.loading import LoadedModel
from worker.data import loading
from worker.data.loading import Location
from worker.stages.context import JobContext
from worker.stages.task_model import TaskModel, encode_task


def read(tasks: Sequence[ObservedTask], location: Location) -> list[list[Row]]:
    """The evaluation rows of each task. Raises as `worker.data.loading.load_rows` does."""
    found = []
    for index, task in enumerate(tasks):
        with blaming_task(f"observe.{index}"):
            found.append(loading.read_source(task.evaluation, "task.evaluation", resolve(task), location))
    return found


def task_models(context: JobContext, loaded: LoadedModel, rows: Sequence[list[Row]]) -> dict[str, TaskModel]:
    """The model with each task in tokens, and nothing to calibrate on, by title. Raises InvalidLabels and its like."""
    found = {}
    for index, (task, evaluation_rows) in enumerate(zip(context.job.request.observe, rows, strict=True)):
        with blaming_task(f"observe.{index}"):
            found[task.title] = encode_task(context, loaded, resolve(task), [], evaluation_rows)
    return found
