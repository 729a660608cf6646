"""Recovery: an optional short training of the slim model after the cut."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from service.contract.errors import InvalidRequest
from service.contract.fields import EXPERT, Schema
from service.contract.options import TaskKind

MIN_ROWS = 16  # calibration rows, of which HELD_OUT_SHARE are held out
HELD_OUT_SHARE = 5  # one calibration row in five is held out from the training


class RecoveryMethod(StrEnum):
    """What the slim model is trained towards."""

    lora = "lora"  # the right answers of the calibration rows
    distillation = "distillation"  # the distribution of the dense model over the answers


class TrainingStage(StrEnum):
    """What a stage of the training reads and learns to write."""

    rationale = "rationale"  # the rationale of a row's right answer
    answer = "answer"  # the answer itself


class Recovery(Schema):
    """A short training of the slim model: LoRA weights beside every matrix of its layers, merged at the end."""

    method: RecoveryMethod = Field(
        default=RecoveryMethod.distillation,
        description="`distillation`: trained towards the dense model's distribution over the answers, which needs no "
        "labels; `lora`: on the right answers. Both train LoRA weights",
    )
    seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="longest time of the training, in which evaluations on held-out rows count",
    )
    rank: int = Field(default=8, ge=1, le=256, description="rank of the LoRA weights", json_schema_extra=EXPERT)
    learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="highest learning rate, of AdamW", json_schema_extra=EXPERT
    )
    epochs: int = Field(
        default=4, ge=1, le=1000, description="most passes over the training rows", json_schema_extra=EXPERT
    )
    steps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="most steps; default: by `epochs`", json_schema_extra=EXPERT
    )
    batch_size: int = Field(default=16, ge=1, le=1024, description="rows of a step", json_schema_extra=EXPERT)
    rows: int | None = Field(
        default=None,
        ge=MIN_ROWS,
        description="use at most this many calibration rows of each task, of which a fifth is held out; default: all",
        json_schema_extra=EXPERT,
    )
    label_weight: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="with `distillation`: weight of the right answers beside the dense model's distribution",
        json_schema_extra=EXPERT,
    )

    stages: list[TrainingStage] = Field(
        default=[TrainingStage.answer],
        min_length=1,
        max_length=len(TrainingStage),
        description="`[rationale, answer]`: trained on the rationales that `task.synthesis` writes for at most half of "
        "the time, and then on the answers",
        json_schema_extra=EXPERT,
    )

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.stages not in ([TrainingStage.answer], list(TrainingStage)):
            raise ValueError("`stages` ends with the answers: give `[answer]`, or `[rationale, answer]`")
        return self

    @property
    def reads_rationales(self) -> bool:
        """Whether the first stage is a training on rationales."""
        return TrainingStage.rationale in self.stages

    @model_validator(mode="after")
    def _check_label_weight(self) -> Self:
        if self.label_weight > 0 and self.method is not RecoveryMethod.distillation:
            raise ValueError("`label_weight` has an effect only with the method `distillation`: leave it out")
        return self


def weight_of_labels(recovery: Recovery) -> float:
    """The weight of the loss on right answers; the rest is that of the distance to the dense model."""
    return 1.0 if recovery.method is RecoveryMethod.lora else recovery.label_weight


def check_kind(recovery: Recovery, kind: TaskKind | None, *, has_labels: bool) -> None:
    """Raise InvalidRequest for a method that a task of this kind, or with these rows, has nothing to train on for."""
    if kind is TaskKind.embedding and recovery.method is RecoveryMethod.lora:
        message = "the texts of an embedding task have no right answers to train on: give the method `distillation`"
        raise InvalidRequest(message, param="recovery.method")
    if recovery.label_weight > 0 and not (has_labels and kind is not TaskKind.embedding):
        message = "`label_weight` has an effect only where the calibration rows have labels: leave it out"
        raise InvalidRequest(message, param="recovery.label_weight")


def check_rows(rows: int) -> None:
    """Raise InvalidRequest for a task with too few calibration rows to train on some and to hold out others."""
    if rows < MIN_ROWS:
        message = (
            f"`recovery` trains on the calibration rows and holds a fifth of them out: it needs {MIN_ROWS} of them, "
            f"and there are {rows}; give more, or leave `recovery` out"
        )
        raise InvalidRequest(message, param="task.calibration")


def check_rank(recovery: Recovery, hidden_size: int) -> None:
    """Raise InvalidRequest for a rank with which a square matrix has as many LoRA weights as it has weights."""
    most = hidden_size // 2
    if recovery.rank > most:
        message = (
            f"with a hidden size of {hidden_size}, LoRA weights of a rank above {most} are more than the weights that "
            f"they stand beside: give at most {most}"
        )
        raise InvalidRequest(message, param="recovery.rank")
