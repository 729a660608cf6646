"""How small the slim model has to be: the target of a request."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from service.contract.fields import EXPERT, MAX_RATIO, Schema


class LatencyBound(Schema):
    """The longest time that a forward pass may take: the median on the worker's device."""

    value: float = Field(gt=0, allow_inf_nan=False, description="milliseconds")
    batch: int = Field(default=1, gt=0, le=256, description="rows of the pass", json_schema_extra=EXPERT)
    tokens: int = Field(default=64, gt=0, le=8192, description="tokens of each row", json_schema_extra=EXPERT)


def _latency_bound(value: Any) -> Any:
    return {"value": value} if isinstance(value, int | float) else value


def _or_a_number(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "number", "exclusiveMinimum": 0})


Ratio = Annotated[float, Field(gt=0, le=MAX_RATIO)]


Weight = Annotated[float, Field(ge=0, le=1)]


class Target(Schema):
    """How small the model has to be.

    Exactly one of the fields, or `keep_metric` together with `parameters`, `bytes` or `latency_ms`: then the model has
    to satisfy both. `artifacts` is given with `sweep` only, `general_weights` with `ratio` only.
    """

    ratio: Ratio | None = Field(default=None, description="share of the chosen units' parameters to remove")
    parameters: int | None = Field(default=None, gt=0, description="the largest model that has no more parameters")
    bytes: int | None = Field(default=None, gt=0, description="the largest model whose weight files are no larger")
    latency_ms: Annotated[LatencyBound, BeforeValidator(_latency_bound)] | None = Field(
        default=None,
        description="the largest model whose forward pass is at most this long on the worker's device; a number is "
        "milliseconds",
        json_schema_extra=_or_a_number,
    )
    keep_metric: float | None = Field(
        default=None, gt=0, le=1, description="the smallest model that keeps this share of the dense model's metric"
    )
    sweep: list[Ratio] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="evaluate a model at each of these ratios",
        json_schema_extra=EXPERT,
    )
    artifacts: list[Ratio] = Field(
        default=[],
        max_length=32,
        description="ratios of the sweep whose checkpoints are stored; empty: the highest",
        json_schema_extra=EXPERT,
    )

    general_weights: list[Weight] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="with `ratio`: also evaluate a model with each of these shares of general rows, on the task and on "
        "general rows; the job's own model has `method.general_weight`",
        json_schema_extra=EXPERT,
    )

    @model_validator(mode="after")
    def _check_general_weights(self) -> Self:
        if self.general_weights is not None and self.ratio is None:
            raise ValueError("`general_weights` compares models of one size: give `ratio`")
        return self

    @model_validator(mode="after")
    def _check_one_target(self) -> Self:
        given = {
            name
            for name in ("ratio", "parameters", "bytes", "latency_ms", "keep_metric", "sweep")
            if getattr(self, name) is not None
        }
        bounds = given & {"parameters", "bytes", "latency_ms"}
        if len(given) != 1 and not (len(bounds) == 1 and given == bounds | {"keep_metric"}):
            raise ValueError(
                "give one of `ratio`, `parameters`, `bytes`, `latency_ms`, `keep_metric` and `sweep`, or `keep_metric` "
                "with one of `parameters`, `bytes` and `latency_ms`"
            )
        return self

    @model_validator(mode="after")
    def _check_artifacts(self) -> Self:
        if not set(self.artifacts) <= set(self.sweep or ()):
            raise ValueError("`artifacts` has a ratio that `sweep` lacks: give ratios of the sweep only")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether candidates have to be cut and measured before the final model is known."""
        measured = (self.keep_metric, self.latency_ms, self.sweep, self.general_weights)
        return any(each is not None for each in measured)
