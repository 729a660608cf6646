"""Options of a method that would change nothing beside the others: refused, so that nobody believes in them."""

from collections.abc import Callable
from typing import NamedTuple

from service.errors import InvalidRequest
from service.schemas import Criterion, JobRequest, Layout, Method, Repair, Scope, Unit

WITH_OBJECTIVE = (
    Criterion.attribution,
    Criterion.reverse,
    Criterion.second_moment,
    Criterion.surgeon,
    Criterion.gisp,
)
WITH_REDUCTIONS = (Criterion.attribution, Criterion.reverse)


class Effect(NamedTuple):
    """When an option changes anything, as a question and in words."""

    holds: Callable[[JobRequest], bool]
    condition: str


def _ranks_globally(request: JobRequest) -> bool:
    return request.method.scope is Scope.all


def _has_objective(request: JobRequest) -> bool:
    return request.method.criterion in WITH_OBJECTIVE or request.method.repair is Repair.least_squares


def _reduces(request: JobRequest) -> bool:
    return request.method.criterion in WITH_REDUCTIONS


def _tells_layers_apart(request: JobRequest) -> bool:
    return Unit.layers in request.method.units or request.output.layout is Layout.per_layer


EFFECTS: dict[str, Effect] = {
    "normalisation": Effect(_ranks_globally, "with the scope `global`"),
    "objective": Effect(_has_objective, f"for the criteria {', '.join(WITH_OBJECTIVE)} and the repair `least_squares`"),
    "token_reduction": Effect(_reduces, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "sign": Effect(_reduces, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "example_reduction": Effect(_reduces, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "protect_first": Effect(_tells_layers_apart, "with the layout `per-layer` or the unit `layers`"),
    "protect_last": Effect(_tells_layers_apart, "with the layout `per-layer` or the unit `layers`"),
}


def check_effects(request: JobRequest) -> None:
    """Raise InvalidRequest for an option that was set to something and changes nothing."""
    for option, effect in EFFECTS.items():
        if getattr(request.method, option) != Method.model_fields[option].default and not effect.holds(request):
            message = f"`{option}` has an effect only {effect.condition}"
            raise InvalidRequest(message, param=f"method.{option}")
