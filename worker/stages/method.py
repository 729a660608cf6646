"""A job's method with its defaults filled in, as the slimming code takes it."""

from dataclasses import replace

from service.contract.options import Layout, Normalisation, Scope, UnionRule
from service.contract.request.job_request import JobRequest
from service.contract.request.method import OBJECTIVES, Method, objective_of
from worker.slimming.allocation import Rules
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.stages.context import JobContext
from worker.stages.task_model import TaskModel


def options(context: JobContext) -> Options:
    """The options of the criterion. Raises InvalidRequest where the objective does not suit the task."""
    method, kind = context.job.request.method, context.task.kind
    chosen = Options(
        objective=objective_of(method, kind).value,
        token_reduction=method.token_reduction.value,
        sign=method.sign.value,
        example_reduction=method.example_reduction.value,
        seed=method.seed,
        selectivity=method.selectivity.value,
    )
    return CRITERIA[method.criterion].options(chosen)


def objective(method: Method, general: TaskModel) -> str:
    """The objective of general rows: that of the method where their kind of task has it, else that kind's default."""
    kind = general.kind
    return (method.objective if method.objective in OBJECTIVES[kind] else OBJECTIVES[kind][0]).value


def rules(request: JobRequest, layout: Layout) -> Rules:
    """The rules of the job's selection in a layout. `per_layer` ranks the units of all layers together.

    The votes of several tasks are compared as they are.
    """
    is_voted = bool(request.tasks) and request.method.union is UnionRule.vote
    found = task_rules(request, layout)
    return replace(found, normalisation=Normalisation.none) if is_voted else found


def task_rules(request: JobRequest, layout: Layout) -> Rules:
    """The rules by which the units are ranked for one task alone."""
    method = request.method
    normalisation = method.normalisation or CRITERIA[method.criterion].normalisation
    return Rules(
        scope=Scope.all if layout is Layout.per_layer else method.scope,
        layout=layout,
        normalisation=normalisation,
        protect_first=method.protect_first,
        protect_last=method.protect_last,
    )


def applied_options(context: JobContext) -> dict[str, str | int]:
    """The criterion, its options and, where groups were ranked together, their normalisation, for the report."""
    request = context.job.request
    selection = rules(request, request.output.layout)
    normalisation = {"normalisation": selection.normalisation} if selection.scope == Scope.all else {}
    return {"criterion": request.method.criterion.value, **vars(options(context)), **normalisation}
