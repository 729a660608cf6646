"""Tasks that a job does not slim for, measured before and after: what the slim model has given up."""

from collections.abc import Sequence

from service.contract.errors import blaming_task
from service.contract.fields import ObservedTask
from service.contract.presets import resolve
from worker.checkpoints.loading import LoadedModel
from worker.data import batching
from worker.data.batching import Location
from worker.data.rows import Row
from worker.stages.context import StagedJob
from worker.stages.task_model import Subject, ask


def read(tasks: Sequence[ObservedTask], location: Location) -> list[list[Row]]:
    """The evaluation rows of each task. Raises as `worker.data.batching.load_rows` does."""
    found = []
    for index, task in enumerate(tasks):
        with blaming_task(f"observe.{index}"):
            found.append(batching.read_source(task.evaluation, "task.evaluation", resolve(task), location))
    return found


def subjects(staged: StagedJob, loaded: LoadedModel, rows: Sequence[list[Row]]) -> dict[str, Subject]:
    """The model with each task in tokens, and nothing to calibrate on, by title. Raises InvalidLabels and its like."""
    found = {}
    for index, (task, evaluation_rows) in enumerate(zip(staged.job.request.observe, rows, strict=True)):
        with blaming_task(f"observe.{index}"):
            found[task.title] = ask(staged, loaded, resolve(task), [], evaluation_rows)
    return found
