"""The checks of a request before anything is queued: the request itself, its inline rows and its model's files."""

from service.contract.criteria import CRITERIA
from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedUnit, blaming_task
from service.contract.fields import GENERAL_PLACE
from service.contract.options import Supervision
from service.contract.request.job_request import JobRequest
from service.contract.request.method import objective_of
from service.contract.request.presets import resolve
from service.contract.request.recovery import check_kind
from service.contract.request.synthesis import check_task as check_synthesis
from service.contract.request.task import Task
from service.planning.data_checks import check_data, check_texts
from service.planning.idle_options import check_idle_options
from service.planning.model_checks import check_model, check_writers
from service.planning.row_counts import check_row_counts, num_evaluation_rows
from service.sources.access import Access, blaming
from service.sources.model_directory import ModelDirectory


def check_request(request: JobRequest, access: Access) -> ModelDirectory:
    """The model's directory, for the checks and the plan that follow. Raises the error that the job would end with.

    `Feasibility` and `plan` check what the headers of the weights decide. The files of a model on a hub are not looked
    at here.
    """
    for place, task in request.placed_tasks.items():
        with blaming_task(place):
            _check_task(request, resolve(task), access)
    _check_kinds(request)
    _check_output(request, access)
    if request.general is not None:
        with blaming_task(GENERAL_PLACE):
            general = resolve(request.general.task)
            _check_rows(general, access)
            num_evaluation_rows(general)
    for index, observed in enumerate(request.observe):
        with blaming_task(f"observe.{index}"):
            check_data(observed.evaluation, resolve(observed), "task.evaluation", access)
    check_writers(request, access)
    return check_model(request, access)


def _check_task(request: JobRequest, task: Task, access: Access) -> None:
    _check_method(request, task)
    check_synthesis(task)
    _check_rows(task, access)
    for name, source in task.evaluations.items():
        check_data(source, task, f"task.evaluations.{name}", access)
    if task.texts is not None:
        check_texts(task.texts, "task.texts", access)
    check_row_counts(request, task)


def _check_rows(task: Task, access: Access) -> None:
    """Check the calibration and the evaluation rows of a resolved task."""
    for source, param in ((task.calibration, "task.calibration"), (task.evaluation, "task.evaluation")):
        if source is not None:
            check_data(source, task, param, access)


def _check_kinds(request: JobRequest) -> None:
    if len({resolve(task).kind for task in request.tasks}) > 1:
        message = "the scores of classification and generation tasks cannot be united: send a job for each kind"
        raise InvalidRequest(message, param="tasks")


def _check_output(request: JobRequest, access: Access) -> None:
    """Raise ForbiddenPath for a place that the model must not be pushed to. Only the worker sees whether it can be."""
    if request.output.uri is not None:
        with blaming("output.uri", InvalidModel):
            access.check_output(request.output.uri)


def _check_method(request: JobRequest, task: Task) -> None:
    check_idle_options(request)
    objective_of(request.method, task.kind)
    if request.recovery is not None:
        check_kind(request.recovery, task.kind, has_labels=task.supervision is Supervision.labels)
    for unit in request.method.scored_units:
        if unit in CRITERIA[request.method.criterion].unserved:
            message = f"the criterion {request.method.criterion} has no formula for the unit {unit}: choose another"
            raise UnsupportedUnit(message, param="method.units")
