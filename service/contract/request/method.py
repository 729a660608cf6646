"""How a model is slimmed: the method of a request."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from service.contract.criteria import (
    CRITERIA,
    OF_MERGES,
    Criterion,
    criteria_in_words,
    default_criterion,
    normalisations_in_words,
)
from service.contract.errors import InvalidRequest
from service.contract.fields import EXPERT, MAX_KEPT_TEXTS, Name, Schema
from service.contract.options import (
    ExampleReduction,
    GeneralRule,
    Merge,
    MergedRouter,
    Normalisation,
    Objective,
    Repair,
    Scope,
    Selectivity,
    Sign,
    TaskKind,
    TokenReduction,
    UnionRule,
    Unit,
)

MAX_SHARDS = 64

# The objectives of each kind of task, its default first. The margin compares labels, which texts have none of.
OBJECTIVES: dict[TaskKind, tuple[Objective, ...]] = {
    TaskKind.classification: (
        Objective.margin,
        Objective.log_probability,
        Objective.probability,
        Objective.sequence_probability,
        Objective.entropy,
    ),
    TaskKind.multi_label: (
        Objective.margin,
        Objective.log_probability,
        Objective.probability,
        Objective.sequence_probability,
        Objective.entropy,
    ),
    TaskKind.token_classification: (
        Objective.margin,
        Objective.log_probability,
        Objective.probability,
        Objective.sequence_probability,
        Objective.entropy,
    ),
    TaskKind.regression: (Objective.output,),
    TaskKind.generation: (
        Objective.log_probability,
        Objective.probability,
        Objective.sequence_probability,
        Objective.entropy,
    ),
    TaskKind.embedding: (Objective.projection,),
    TaskKind.language_modelling: (Objective.log_probability, Objective.probability, Objective.entropy),
}


def default_repair(units: Sequence[Unit]) -> Repair:
    """The repair of a request that names none."""
    has_none = Unit.experts in units or list(units) == [Unit.vocabulary]
    return Repair.none if has_none else Repair.least_squares_layerwise


class Method(Schema):
    """How units are scored, selected and repaired."""

    units: list[Unit] = Field(
        default=[Unit.ffn], min_length=1, max_length=len(Unit), description="kinds of units to remove"
    )
    # before the criterion, whose default depends on it
    repair: Repair = Field(
        default_factory=lambda data: default_repair(data.get("units", ())),
        description="how the kept weights are changed to replace the removed ones. Default: "
        "`least_squares_layerwise`, and `none` where `experts` are removed or nothing but the `vocabulary`, which "
        "have no other",
        json_schema_extra=EXPERT,
    )
    merge: Merge = Field(
        default=Merge.none,
        description="`uncurl`: experts with similar router logits are merged into one, instead of some being removed; "
        "with the unit `experts` alone",
        json_schema_extra=EXPERT,
    )
    merged_router: MergedRouter = Field(
        default=MergedRouter.log_sum_exp,
        description="with `merge`: how the router's row of a merged expert is computed, without training. "
        "`log_sum_exp`: its logit is fitted to that of the sum of the probabilities; `mean`: the mean of the rows",
        json_schema_extra=EXPERT,
    )
    criterion: Criterion = Field(
        default_factory=lambda data: default_criterion(data.get("repair", Repair.none), data.get("merge", Merge.none)),
        description=criteria_in_words(),
        json_schema_extra=EXPERT,
    )
    scope: Scope = Field(
        default=Scope.layer,
        description="`global`: all units share one budget; `layer`: the same share is removed from every layer",
        json_schema_extra=EXPERT,
    )
    steps: int = Field(
        default=1,
        ge=1,
        le=100,
        description="number of removals; the scores are computed again before each",
        json_schema_extra=EXPERT,
    )
    objective: Objective | None = Field(
        default=None,
        description="scalar whose gradient the criterion uses; default: margin, output for regression, log_probability "
        "for generation and language_modelling, projection for embedding",
        json_schema_extra=EXPERT,
    )
    token_reduction: TokenReduction = Field(
        default=TokenReduction.sum,
        description="how the products of a row's tokens become one number",
        json_schema_extra=EXPERT,
    )
    sign: Sign = Field(
        default=Sign.signed,
        description="`signed`: contributions against the answer are negative; `absolute`: they count by their size",
        json_schema_extra=EXPERT,
    )
    example_reduction: ExampleReduction = Field(
        default=ExampleReduction.square,
        description="how the numbers of all rows become the score of a unit",
        json_schema_extra=EXPERT,
    )
    normalisation: Normalisation | None = Field(
        default=None,
        description=f"what scores are divided by before a global rank. Default: {normalisations_in_words()}",
        json_schema_extra=EXPERT,
    )
    keep_vocabulary: list[Name] = Field(
        default=[],
        max_length=MAX_KEPT_TEXTS,
        description="with the unit `vocabulary`: words or tokens that stay, as the vocabulary spells them or as a text "
        "has them. `task.texts` names files of texts",
        json_schema_extra=EXPERT,
    )
    union: UnionRule = Field(
        default=UnionRule.sum, description="how the scores of several `tasks` are combined", json_schema_extra=EXPERT
    )
    selectivity: Selectivity = Field(
        default=Selectivity.difference,
        description="how the criterion `selectivity` compares activations on the task's rows with those on general "
        "rows",
        json_schema_extra=EXPERT,
    )
    general_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of general rows in scores and repair: 0, the task alone; 1, general rows alone",
        json_schema_extra=EXPERT,
    )
    general_rule: GeneralRule = Field(
        default=GeneralRule.mixture,
        description="how general rows take part in the scores: `mixture`, the moments of both kinds of rows are mixed; "
        "`shared_exclusive`, units that are more active on one kind count by their score there, the others by the "
        "higher score",
        json_schema_extra=EXPERT,
    )
    protect_first: int = Field(
        default=0,
        ge=0,
        description="first layers of a stack that are never removed; with the layout `per_layer` they stay whole",
        json_schema_extra=EXPERT,
    )
    protect_last: int = Field(
        default=0,
        ge=0,
        description="last layers of a stack that are never removed; with the layout `per_layer` they stay whole",
        json_schema_extra=EXPERT,
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=MAX_SHARDS,
        description="RQ jobs that the calibration and evaluation rows are divided among, for any workers of the queue; "
        "a last one adds up what they measure and goes on. 1: one worker does all",
        json_schema_extra=EXPERT,
    )
    controls: bool = Field(
        default=False,
        description="also evaluate models that are cut by random and by reversed scores",
        json_schema_extra=EXPERT,
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of the criterion random, of the first of the three random controls, and of the recovery",
        json_schema_extra=EXPERT,
    )

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        if self.shards == 1:
            return self
        if self.steps > 1:
            raise ValueError("`shards` measure the rows once, and each of the `steps` needs all rows: leave one out")
        if self.general_weight > 0 or CRITERIA[self.criterion].needs_general:
            raise ValueError("`shards` do not go with scores that compare or mix general rows: leave `shards` out")
        return self

    @model_validator(mode="after")
    def _check_units_differ(self) -> Self:
        if len(set(self.units)) != len(self.units):
            raise ValueError("`units` has an entry twice: give each kind of unit once")
        return self

    @model_validator(mode="after")
    def _check_repair_of_experts(self) -> Self:
        if Unit.experts in self.units and self.repair is not Repair.none:
            raise ValueError(
                f"the repair `{self.repair}` is not defined for `experts`, of which each token reads some alone: give "
                "`repair: none`"
            )
        return self

    @model_validator(mode="after")
    def _check_vocabulary(self) -> Self:
        if Unit.vocabulary not in self.units:
            if self.keep_vocabulary:
                raise ValueError("`keep_vocabulary` names tokens that stay: give the unit `vocabulary`")
            return self
        if self.steps > 1:
            raise ValueError("the unit `vocabulary` is removed in one step: leave `steps` out")
        if self.scored_units:
            return self
        default = {"units": self.units, "repair": Repair.none, "merge": Merge.none}
        for name, field in type(self).model_fields.items():
            alone = field.get_default(call_default_factory=True, validated_data=default)
            if name not in ("units", "keep_vocabulary") and getattr(self, name) != alone:
                raise ValueError(f"`{name}` has an effect only if other units than `vocabulary` are removed")
        return self

    @property
    def scored_units(self) -> list[Unit]:
        """The units that a criterion scores: all but the vocabulary, which is ranked by its use."""
        return [unit for unit in self.units if unit is not Unit.vocabulary]

    @model_validator(mode="after")
    def _check_merge(self) -> Self:
        if self.merge is Merge.none:
            return self
        merge = f"`merge: {self.merge}`"
        if self.units != [Unit.experts]:
            raise ValueError(f"{merge} is for experts: give `units: [experts]`, or leave `merge` out")
        if self.criterion not in OF_MERGES:
            weights = ", ".join(OF_MERGES)
            raise ValueError(f"{merge} weighs the experts by their scores: give one of the criteria {weights}")
        if self.steps > 1 or self.controls:
            option = "controls" if self.controls else "steps"
            raise ValueError(f"{merge} does not go with `{option}`, which remove experts: leave one of them out")
        return self

    @model_validator(mode="after")
    def _check_scope_of_nested_units(self) -> Self:
        units = set(self.scored_units)
        holding = ({Unit.heads, Unit.head_dims}, {Unit.experts, Unit.ffn})
        nested = (len(units) > 1 and Unit.layers in units) or any(units >= pair for pair in holding)
        if nested and self.scope is Scope.layer:
            raise ValueError(
                "one of these `units` contains parameters of another, so the same share of each removes more than the "
                "ratio: give `scope: global`, where all units share one budget"
            )
        return self


def check_shards(method: Method, rows: int) -> None:
    """Raise InvalidRequest for more shards than there are calibration rows."""
    if method.shards > rows:
        message = f"there are {rows} calibration rows for {method.shards} shards: give at most {rows}"
        raise InvalidRequest(message, param="method.shards")


def objective_of(method: Method, kind: TaskKind | None) -> Objective:
    """The objective of a method for a kind of task.

    Raises InvalidRequest for one that tasks of the kind do not have.
    """
    kind = kind or TaskKind.classification
    if method.objective is not None and method.objective not in OBJECTIVES[kind]:
        message = f"a {kind} task does not have the objective `{method.objective}`"
        raise InvalidRequest(f"{message}: give one of {', '.join(OBJECTIVES[kind])}", param="method.objective")
    return method.objective or OBJECTIVES[kind][0]
