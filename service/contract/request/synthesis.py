"""The rows that a language model writes: which tasks have them, and who can write them."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.contract.errors import InvalidRequest, TaskslimError
from service.contract.options import Supervision, TaskKind
from service.contract.request.task import Task

KINDS = (TaskKind.classification, TaskKind.generation)  # of tasks whose rows are written
MIN_ROWS = 4  # calibration rows that others are written from
WRITER = "task.synthesis.model"


def check_task(task: Task) -> None:
    """Raise InvalidRequest for a synthesis of rows that a resolved task cannot have."""
    if task.synthesis is None:
        return
    message = None
    if task.kind not in KINDS:
        message = f"rows are written for tasks of the kinds {' and '.join(KINDS)}, and not for {task.kind}"
    elif task.messages is not None:
        message = "rows are written for a template, and not conversations: give `task.template`"
    elif task.supervision is Supervision.none:
        message = "rows are written from rows with right answers, which `supervision: none` has none of"
    if message is not None:
        raise InvalidRequest(f"{message}, or leave `synthesis` out", param="task.synthesis")


def check_rows(rows: int) -> None:
    """Raise InvalidRequest for a task with too few calibration rows to write others from."""
    if rows < MIN_ROWS:
        message = (
            f"`synthesis` writes rows that are like the calibration rows: it needs {MIN_ROWS} of them, and there are "
            f"{rows}; give more, or leave `synthesis` out"
        )
        raise InvalidRequest(message, param="task.calibration")


def check_writer(kind: str, *, is_own: bool) -> None:
    """Raise InvalidRequest unless a model of this kind writes texts after a prompt; `is_own`: it is the dense model."""
    if kind == "causal":
        return
    if is_own:
        message = "the dense model is no decoder, and writes no rows: name one that does in `synthesis.model`"
        raise InvalidRequest(message, param="task.synthesis")
    message = "the model that writes rows must be a decoder with its language modelling head: name another one"
    raise InvalidRequest(message, param=f"{WRITER}.uri")


def check_reader_of_rationales(task: Task, kind: str) -> None:
    """Raise InvalidRequest for rationales that a dense model of this kind cannot be trained to write."""
    if task.synthesis is not None and task.synthesis.rationales and kind not in ("causal", "encoder_decoder"):
        message = "the dense model writes no texts, so that it is not trained on rationales: leave `rationales` out"
        raise InvalidRequest(message, param="task.synthesis.rationales")


@contextmanager
def blaming_writer() -> Iterator[None]:
    """Name the model that writes, in place of the dense model, in errors raised within the context."""
    try:
        yield
    except TaskslimError as error:
        if error.param is not None and error.param.partition(".")[0] == "model":
            error.param = WRITER + error.param.removeprefix("model")
        raise
