"""What a job's method comes to, defaults filled in."""

from service.contract.errors import InvalidRequest
from service.contract.options import Layout, Objective, Scope, TaskKind
from service.contract.request import JobRequest
from worker.slimming.allocation import Rules
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.stages.context import JobContext


def options(context: JobContext) -> Options:
    """What the criterion is told. Raises InvalidRequest for an objective that the task cannot serve."""
    method, kind = context.job.request.method, context.task.kind
    objective = method.objective or (Objective.log_probability if kind is TaskKind.generation else Objective.margin)
    if objective is Objective.margin and kind is TaskKind.generation:
        raise InvalidRequest("a generation task has no wrong labels to take a margin to", param="method.objective")
    asked = Options(
        objective=objective.value,
        token_reduction=method.token_reduction.value,
        sign=method.sign.value,
        example_reduction=method.example_reduction.value,
        seed=method.seed,
    )
    return CRITERIA[method.criterion].options(asked)


def rules(request: JobRequest, layout: Layout) -> Rules:
    """What restricts the job's selection in a layout: widths of each layer's own come of one rank over all."""
    method = request.method
    normalisation = method.normalisation or CRITERIA[method.criterion].normalisation
    return Rules(
        scope=Scope.all if layout is Layout.per_layer else method.scope,
        layout=layout,
        normalisation=normalisation,
        protect_first=method.protect_first,
        protect_last=method.protect_last,
    )


def in_force(context: JobContext) -> dict[str, str | int]:
    """What the report says of the method: the criterion, what it was told, and how groups were compared."""
    request = context.job.request
    told = rules(request, request.output.layout)
    compared = {"normalisation": told.normalisation} if told.scope == Scope.all else {}
    return {"criterion": request.method.criterion.value, **vars(options(context)), **compared}
