"""Options of a method that have no effect together with the other options. A request that sets one is refused."""

from collections.abc import Callable
from typing import NamedTuple

from service.contract.criteria import CRITERIA, Criterion
from service.contract.errors import InvalidRequest
from service.contract.options import FITTED, ExampleReduction, Layout, Merge, Repair, Scope, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method

WITH_OBJECTIVE = tuple(name for name, row in CRITERIA.items() if row.has_objective)
WITH_REDUCTIONS = tuple(name for name, row in CRITERIA.items() if row.has_reductions)
MIXING_GENERAL = tuple(name for name, row in CRITERIA.items() if row.mixes_general)
WITH_SEED = tuple(name for name, row in CRITERIA.items() if row.has_seed)


class Effect(NamedTuple):
    """The condition under which an option has an effect: as a function and in words."""

    holds: Callable[[JobRequest], bool]
    condition: str
    on_by_default: bool = False  # whether the default has an effect too, so that asking for it explicitly is checked


def _ranks_globally(request: JobRequest) -> bool:
    return request.method.scope is Scope.all


def _has_objective(request: JobRequest) -> bool:
    return request.method.criterion in WITH_OBJECTIVE or request.method.repair in FITTED


def _has_reductions(request: JobRequest) -> bool:
    return request.method.criterion in WITH_REDUCTIONS


def _draws_at_random(request: JobRequest) -> bool:
    return request.method.criterion in WITH_SEED or request.method.controls or request.recovery is not None


def _scores_change_between_steps(request: JobRequest) -> bool:
    return CRITERIA[request.method.criterion].reads_data or _ranks_globally(request)


def _is_selective(request: JobRequest) -> bool:
    return request.method.criterion is Criterion.selectivity


def _mixes_general_rows(request: JobRequest) -> bool:
    # A sum of attributions is not quadratic in the objective: its parts would not have the shares of the weight.
    is_square = request.method.example_reduction is ExampleReduction.square
    return request.method.criterion in MIXING_GENERAL and is_square


def _weighs_general_rows(request: JobRequest) -> bool:
    return request.method.general_weight > 0 or any(request.target.general_weights or ())


def _has_several_tasks(request: JobRequest) -> bool:
    return bool(request.tasks)


def _has_something_to_repair(request: JobRequest) -> bool:
    return request.method.repair is Repair.none or set(request.method.scored_units) != {Unit.layers}


def _treats_layers_differently(request: JobRequest) -> bool:
    return Unit.layers in request.method.units or request.output.layout is Layout.per_layer


def _merges_experts(request: JobRequest) -> bool:
    return request.method.merge is not Merge.none


EFFECTS: dict[str, Effect] = {
    "normalisation": Effect(_ranks_globally, "with the scope `global`"),
    "objective": Effect(
        _has_objective, f"for the criteria {', '.join(WITH_OBJECTIVE)} and the repairs {', '.join(FITTED)}"
    ),
    "token_reduction": Effect(_has_reductions, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "sign": Effect(_has_reductions, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "example_reduction": Effect(_has_reductions, f"for the criteria {', '.join(WITH_REDUCTIONS)}"),
    "union": Effect(_has_several_tasks, "with `tasks`"),
    "selectivity": Effect(_is_selective, f"for the criterion {Criterion.selectivity}"),
    "general_weight": Effect(
        _mixes_general_rows, f"for the criteria {', '.join(MIXING_GENERAL)}, with the `example_reduction` square"
    ),
    "general_rule": Effect(_weighs_general_rows, "with a `general_weight` above 0, or `target.general_weights`"),
    "steps": Effect(_scores_change_between_steps, "for criteria that read data, or with the scope `global`"),
    "seed": Effect(_draws_at_random, f"for the criterion {', '.join(WITH_SEED)}, or with `controls` or `recovery`"),
    "protect_first": Effect(_treats_layers_differently, "with the layout `per_layer` or the unit `layers`"),
    "protect_last": Effect(_treats_layers_differently, "with the layout `per_layer` or the unit `layers`"),
    "merged_router": Effect(_merges_experts, "with `merge`"),
    "repair": Effect(_has_something_to_repair, "if other units than `layers` are removed", on_by_default=True),
}


DEFAULTS = {option: Method.model_fields[option].default for option in EFFECTS}


def check_idle_options(request: JobRequest) -> None:
    """Raise InvalidRequest for an option that the request sets and that has no effect."""
    for option, effect in EFFECTS.items():
        if _is_set(request.method, option, effect) and not effect.holds(request):
            raise InvalidRequest(f"`{option}` has an effect only {effect.condition}", param=f"method.{option}")
    weighing = EFFECTS["general_weight"]
    if request.target.general_weights is not None and not weighing.holds(request):
        message = f"`general_weights` have an effect only {weighing.condition}"
        raise InvalidRequest(message, param="target.general_weights")


def _is_set(options: Method, option: str, effect: Effect) -> bool:
    if effect.on_by_default:
        return option in options.model_fields_set
    return bool(getattr(options, option) != DEFAULTS[option])
