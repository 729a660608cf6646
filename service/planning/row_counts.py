"""Whether a request has enough rows, as far as the request itself holds them; files are counted by the worker."""

from service.contract.errors import InvalidRequest
from service.contract.options import TaskKind
from service.contract.request import synthesis
from service.contract.request.job_request import JobRequest
from service.contract.request.method import check_shards
from service.contract.request.presets import LABEL_COLUMN
from service.contract.request.recovery import check_rows
from service.contract.request.task import DataSource, Task, TaskWording
from service.rows.checks import have_answers
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.storage.draws import drawn, num_set_aside


def check_row_counts(request: JobRequest, task: Task) -> None:
    """Check the numbers of inline rows of a resolved task, whose rows were checked.

    Raises InvalidData where too few are left to set some aside for the evaluation, InvalidRequest where `keep_metric`
    has a single evaluation row, a recovery or a synthesis too few calibration rows, or where there are fewer of these
    than shards.
    """
    evaluation = num_evaluation_rows(task)
    if request.target.keep_metric is not None and evaluation is not None and evaluation < 2:
        raise InvalidRequest("`keep_metric` needs at least two evaluation rows", param="task.evaluation")
    calibration = _num_calibration_examples(task)
    if calibration is None:
        return
    check_shards(request.method, calibration)
    if request.recovery is not None:
        check_rows(calibration)
    if task.synthesis is not None:
        synthesis.check_rows(calibration)


def inline_rows(source: DataSource, task: TaskWording) -> list[Row] | None:
    """The inline rows of a source; None where it names a file."""
    if source.rows is None:
        return None
    rows = [Row(values, number, counted_in="row") for number, values in enumerate(source.rows, start=1)]
    return with_named_labels(rows, task)


def _num_calibration_examples(task: Task) -> int | None:
    """The number of calibration rows; None where they are in a file, or are conversations with several answers."""
    rows = inline_rows(task.calibration, task)
    if rows is None or task.messages is not None:
        return None
    count = len(drawn(rows, task.calibration))
    return count if task.evaluation is not None else count - (num_evaluation_rows(task) or 0)


def num_evaluation_rows(task: Task) -> int | None:
    """The number of evaluation rows; None where they are in a file.

    Raises InvalidData where too few calibration rows are there to set some aside.
    """
    rows = inline_rows(task.evaluation or task.calibration, task)
    if rows is None:
        return None
    if task.evaluation is not None:
        return len(drawn(rows, task.evaluation))
    rows = drawn(rows, task.calibration)
    labelled = task.kind is TaskKind.classification and have_answers(rows, task)
    return num_set_aside(rows, LABEL_COLUMN if labelled else None)
