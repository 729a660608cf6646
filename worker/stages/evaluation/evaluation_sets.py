"""The evaluation sets of a job: the rows, the model that answers them, and the role that the answers have.

The list of sets is built once, when the model is loaded. Every set is measured with the dense and with the slim model;
metrics and report select the sets that they show by their roles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from service.contract.answers.result import JobMetrics, MetricsPair
from service.contract.errors import blaming_task
from service.contract.fields import GENERAL_PLACE
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import resolve
from service.contract.request.task import DataSource, ObservedTask, Task, TaskWording
from service.rows.row import Row
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.verification import Probe
from worker.data.loading import Location, load_rows, read_source
from worker.evaluation.pooling import pooled_metrics
from worker.stages.context import JobContext
from worker.stages.task_model import Measured, TaskModel, encode, encode_task


class Role(StrEnum):
    """What a job measures an evaluation set for."""

    task = "task"  # the task that the model is slimmed for; of a union, its first task
    union_task = "union_task"  # a further task of a union
    further_rows = "further_rows"  # the first task on further rows, such as those of another domain
    general = "general"  # what the model can do besides its task
    observed_task = "observed_task"  # a task that the model is not slimmed for


SLIMMED_FOR = (Role.task, Role.union_task)


class SetKey(NamedTuple):
    """Identifies an evaluation set within its job."""

    role: Role
    name: str


@dataclass(frozen=True)
class RequestedRows:
    """The rows of one evaluation set as the request's sources have them, before any model has read them."""

    role: Role
    name: str  # the task's title, or the name of further rows
    place: str  # of the task in the request, such as `tasks.1`
    task: TaskWording  # resolved
    evaluation: list[Row]
    calibration: list[Row] = field(default_factory=list)  # empty for further rows and observed tasks


@dataclass(frozen=True)
class EvaluationSet:
    """Evaluation rows, and the model with the same rows and their task in tokens."""

    role: Role
    name: str
    rows: list[Row]
    task_model: TaskModel

    @property
    def key(self) -> SetKey:
        """What measurements of this set are kept under."""
        return SetKey(self.role, self.name)


Measurements = Mapping[SetKey, Measured]


def read(request: JobRequest, task: Task, location: Location) -> list[RequestedRows]:
    """The rows of every evaluation set, those of the job's own task first; `task` is that task, resolved.

    Raises the errors of `worker.data.loading.load_rows`. They blame the field of the request that named the rows.
    """
    (place, _), *union_tasks = request.placed_tasks.items()
    return [
        _task_rows(Role.task, place, task, location),
        *(_task_rows(Role.union_task, place, _resolved(place, each), location) for place, each in union_tasks),
        *(_further_rows(name, source, place, task, location) for name, source in task.evaluations.items()),
        *_general_rows(request, location),
        *(_observed_rows(f"observe.{index}", each, location) for index, each in enumerate(request.observe)),
    ]


def _resolved(place: str, task: Task) -> Task:
    with blaming_task(place):
        return resolve(task)


def _task_rows(role: Role, place: str, task: Task, location: Location) -> RequestedRows:
    with blaming_task(place):
        calibration, evaluation = load_rows(task, location)
    return RequestedRows(role, task.title, place, task, evaluation, calibration)


def _further_rows(name: str, source: DataSource, place: str, task: Task, location: Location) -> RequestedRows:
    with blaming_task(place):
        rows = read_source(source, _param(Role.further_rows, name), task, location)
    return RequestedRows(Role.further_rows, name, place, task, rows)


def _general_rows(request: JobRequest, location: Location) -> list[RequestedRows]:
    if request.general is None:
        return []
    with blaming_task(GENERAL_PLACE):
        task = resolve(request.general.task)
        calibration, evaluation = load_rows(task, location)
    return [RequestedRows(Role.general, task.title, GENERAL_PLACE, task, evaluation, calibration)]


def _observed_rows(place: str, task: ObservedTask, location: Location) -> RequestedRows:
    with blaming_task(place):
        resolved = resolve(task)
        rows = read_source(task.evaluation, _param(Role.observed_task, task.title), resolved, location)
    return RequestedRows(Role.observed_task, task.title, place, resolved, rows)


def _param(role: Role, name: str) -> str:
    """The field of a task that names the evaluation rows of a set."""
    return f"task.evaluations.{name}" if role is Role.further_rows else "task.evaluation"


def build(context: JobContext, loaded: LoadedModel, requested: Sequence[RequestedRows]) -> list[EvaluationSet]:
    """The evaluation sets of the requested rows, in their order. All of them share the loaded model.

    Raises InvalidLabels, InvalidTemplate or UnknownLabel for a task that the model cannot be asked.
    """
    found: list[EvaluationSet] = []
    for each in requested:
        with blaming_task(each.place):
            if each.role is Role.further_rows:
                task_model = _on_further_rows(context, own(found).task_model, each)
            else:
                task_model = encode_task(context, loaded, each.task, each.calibration, each.evaluation)
        found.append(EvaluationSet(each.role, each.name, each.evaluation, task_model))
    return found


def _on_further_rows(context: JobContext, task_model: TaskModel, requested: RequestedRows) -> TaskModel:
    param, budget = _param(requested.role, requested.name), context.settings.tokens_per_batch
    rows = encode(requested.evaluation, param, task_model.wording, task_model.padding, budget)
    return replace(task_model, evaluation=rows)


def having_role(sets: Sequence[EvaluationSet], *roles: Role) -> list[EvaluationSet]:
    """The sets with one of the roles, in their order."""
    return [each for each in sets if each.role in roles]


def own(sets: Sequence[EvaluationSet]) -> EvaluationSet:
    """The set of the job's own task."""
    [found] = having_role(sets, Role.task)
    return found


def calibrated_on_all_tasks(sets: Sequence[EvaluationSet]) -> TaskModel:
    """The model of the job's own task with the calibration rows of every task of the union, for its repair."""
    first, *others = [each.task_model for each in having_role(sets, *SLIMMED_FOR)]
    if not others:
        return first
    calibrations = [first.calibration, *(other.calibration for other in others)]
    joined = replace(
        first.calibration,
        examples=[example for each in calibrations for example in each.examples],
        batches=[batch for each in calibrations for batch in each.batches],
        shortened=sum(each.shortened for each in calibrations),
    )
    return replace(first, calibration=joined)


def with_loaded_model(sets: Sequence[EvaluationSet], loaded: LoadedModel, probe: Probe) -> list[EvaluationSet]:
    """The sets with another model, and the probe that its checkpoint is verified by."""
    return [replace(each, task_model=replace(each.task_model, loaded=loaded, probe=probe)) for each in sets]


def job_metrics(sets: Sequence[EvaluationSet], dense: Measurements, slim: Measurements) -> JobMetrics:
    """The metrics of both models on every set; those of a union's tasks pooled as well."""

    def pairs(*roles: Role) -> dict[str, MetricsPair]:
        return {
            each.name: MetricsPair(dense=dense[each.key].metrics, slim=slim[each.key].metrics)
            for each in having_role(sets, *roles)
        }

    tasks = pairs(*SLIMMED_FOR)
    return JobMetrics(
        dense=pooled_metrics([pair.dense for pair in tasks.values()]),
        slim=pooled_metrics([pair.slim for pair in tasks.values()]),
        tasks=tasks if len(tasks) > 1 else {},
        evaluations=pairs(Role.further_rows),
        general=next(iter(pairs(Role.general).values()), None),
        observed=pairs(Role.observed_task),
    )
