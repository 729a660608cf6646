"""The request of a job.

Common fields come first in each model. Fields with `json_schema_extra=EXPERT` have a default that suits most jobs.
"""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from service.contract.criteria import CRITERIA
from service.contract.fields import (
    EXPERT,
    GENERAL_PLACE,
    MAX_OBSERVED,
    MAX_TASKS,
    Schema,
    Tags,
    Uri,
)
from service.contract.options import (
    Format,
    Layout,
    Merge,
    Repair,
    Scope,
    Supervision,
    Unit,
)
from service.contract.request.method import Method
from service.contract.request.output import Output
from service.contract.request.recovery import Recovery
from service.contract.request.target import Target
from service.contract.request.task import GeneralRows, ModelSource, ObservedTask, Task, TaskWording


class WebhookEvent(StrEnum):
    """A change of a job's status that is sent to its webhook."""

    job_running = "job.running"
    job_succeeded = "job.succeeded"
    job_failed = "job.failed"
    job_cancelled = "job.cancelled"


ENDINGS = [WebhookEvent.job_succeeded, WebhookEvent.job_failed, WebhookEvent.job_cancelled]


class Webhook(Schema):
    """The receiver of the job's events. Messages are signed with the tenant's secret (Standard Webhooks 1.0.0)."""

    url: Uri = Field(description="https; a public address unless the deployment allows the host")
    events: list[WebhookEvent] = Field(
        default=ENDINGS,
        min_length=1,
        max_length=len(WebhookEvent),
        description="events to send; default: the end of the job",
        json_schema_extra=EXPERT,
    )


class Priority(StrEnum):
    """The order of waiting jobs: those of a higher priority first, those of the same priority oldest first."""

    high = "high"
    normal = "normal"
    low = "low"


class JobRequest(Schema):
    """A model, a task and a target; everything else has a default.

    Fields marked `x-group: expert` have a default that suits most jobs.
    """

    model: ModelSource
    task: Task | None = Field(default=None, description="what the slim model must still be able to do")
    target: Target
    method: Method = Method()
    recovery: Recovery | None = Field(
        default=None, description="a short training of the slim model after the cut; default: nothing is trained"
    )
    tags: Tags = Field(default={}, description="labels of your own, to find the job by")
    webhook: Webhook | None = Field(default=None, description="where events of the job are sent")
    output: Output = Field(default=Output(), json_schema_extra=EXPERT)
    tasks: list[Task] = Field(
        default=[],
        max_length=MAX_TASKS,
        description="several tasks that the slim model must still be able to do, in place of `task`",
        json_schema_extra=EXPERT,
    )
    observe: list[ObservedTask] = Field(
        default=[],
        max_length=MAX_OBSERVED,
        description="tasks that both models are evaluated on although the model is not slimmed for them",
        json_schema_extra=EXPERT,
    )
    priority: Priority = Field(
        default=Priority.normal, description="order among the waiting jobs", json_schema_extra=EXPERT
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=3650,
        description="days after its end until the job and the scores that it used are deleted; default: set by the "
        "deployment",
        json_schema_extra=EXPERT,
    )
    deadline_seconds: int = Field(
        default=3600,
        ge=10,
        le=7 * 86400,
        description="seconds from the job's first start, not from its submission, after which it fails if it is not "
        "finished",
        json_schema_extra=EXPERT,
    )

    @property
    def placed_tasks(self) -> dict[str, Task]:
        """Path in the request -> each task that the model is slimmed for."""
        return {"task": self.task} if self.task else {f"tasks.{index}": task for index, task in enumerate(self.tasks)}

    @property
    def slimmed_for(self) -> list[Task]:
        """The tasks that the model is slimmed for: one, or those of a union."""
        return list(self.placed_tasks.values())

    @property
    def general(self) -> GeneralRows | None:
        """What the model can do besides its one task; None where the request names no rows of that."""
        return self.task.general if self.task else None

    @property
    def placed_wordings(self) -> dict[str, TaskWording]:
        """Path in the request -> each wording: of the tasks that the model is slimmed for, of general rows, and of
        observed tasks."""
        general = {GENERAL_PLACE: self.general.task} if self.general else {}
        return {
            **self.placed_tasks,
            **general,
            **{f"observe.{index}": observed for index, observed in enumerate(self.observe)},
        }

    @property
    def title(self) -> str:
        """The titles of the tasks that the model is slimmed for."""
        return " + ".join(task.title for task in self.slimmed_for)

    @model_validator(mode="after")
    def _check_one_or_several_tasks(self) -> Self:
        if (self.task is None) == (not self.tasks) or len(self.tasks) == 1:
            raise ValueError("give `task`, or `tasks` with at least two entries")
        return self

    @model_validator(mode="after")
    def _check_titles_differ(self) -> Self:
        for name, listed in (("tasks", self.tasks), ("observe", self.observe)):
            titles = [task.title for task in listed]
            if len(set(titles)) != len(titles):
                raise ValueError(f"two entries of `{name}` have the same title: give each a different `name`")
        return self

    @model_validator(mode="after")
    def _check_union(self) -> Self:
        if not self.tasks:
            return self
        if self.method.steps > 1:
            raise ValueError("with `tasks` each task is scored on the whole model: `method.steps` must be 1")
        if self.target.keep_metric is not None or self.target.sweep is not None:
            raise ValueError("`keep_metric` and `sweep` need a single task: with `tasks` give another target")
        if self.method.controls:
            raise ValueError("`method.controls` needs a single task: leave it out with `tasks`")
        for task in self.tasks:
            if task.supervision is Supervision.none or task.evaluations or task.general:
                raise ValueError(
                    "an entry of `tasks` takes neither `supervision: none` nor `evaluations` nor `general`"
                )
        return self

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        if self.method.shards == 1:
            return self
        if any(task.supervision is Supervision.none for task in self.slimmed_for):
            raise ValueError(
                "with `supervision: none` the model labels all rows before any is scored: leave `method.shards` out"
            )
        if any(task.synthesis is not None for task in self.slimmed_for):
            raise ValueError("with `synthesis` rows are written before any is scored: leave `method.shards` out")
        if self.target.general_weights is not None:
            raise ValueError("`shards` do not go with scores that mix general rows: leave `method.shards` out")
        return self

    @model_validator(mode="after")
    def _check_general(self) -> Self:
        if self.general is not None:
            return self
        if CRITERIA[self.method.criterion].needs_general:
            raise ValueError(
                f"the criterion `{self.method.criterion}` compares the task's rows with general rows: give "
                "`task.general`, or another criterion"
            )
        if self.method.general_weight > 0:
            raise ValueError("`method.general_weight` is the share of general rows: give `task.general`")
        return self

    @model_validator(mode="after")
    def _check_general_weights(self) -> Self:
        if self.target.general_weights is None:
            return self
        weights = "`target.general_weights` are shares of general rows"
        if self.general is None:
            raise ValueError(f"{weights}: give `task.general`")
        if self.method.steps > 1:
            raise ValueError(f"{weights}, of scores that are taken once: leave `method.steps` out")
        if Unit.vocabulary in self.method.units:
            raise ValueError(f"{weights}, which the rank of tokens does not have: leave `vocabulary` out of the units")
        if self.recovery is not None:
            raise ValueError(f"{weights}, and their models are not trained: leave `recovery` out")
        return self

    @model_validator(mode="after")
    def _check_vocabulary(self) -> Self:
        if Unit.vocabulary in self.method.units:
            if self.recovery is not None:
                raise ValueError(
                    "`recovery` compares the answers of the dense and the slim model token by token: leave it out, or "
                    "leave `vocabulary` out of the units"
                )
            return self
        if any(task.texts is not None for task in self.slimmed_for):
            raise ValueError("`texts` name tokens that stay in the vocabulary: give the unit `vocabulary`")
        return self

    @model_validator(mode="after")
    def _check_formats(self) -> Self:
        if Format.indices in self.output.formats and self.method.repair is not Repair.none:
            raise ValueError(
                "`output.formats: indices` cannot store the weights that `method.repair` changes: give `safetensors` "
                "alone, or the repair `none`"
            )
        return self

    @model_validator(mode="after")
    def _check_formats_of_merges(self) -> Self:
        if Format.indices in self.output.formats and self.method.merge is not Merge.none:
            raise ValueError(
                "`output.formats: indices` cannot store the experts that `method.merge` makes: give `safetensors` alone"
            )
        return self

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        if self.output.layout is Layout.per_layer and self.method.scope is not Scope.all:
            raise ValueError(
                "`output.layout: per_layer` needs `method.scope: global`: with `layer` every layer keeps the same share"
            )
        return self

    @model_validator(mode="after")
    def _check_rationales(self) -> Self:
        wanted = self.recovery is not None and self.recovery.reads_rationales
        for place, task in self.placed_tasks.items():
            written = task.synthesis is not None and task.synthesis.rationales
            if written and not wanted:
                raise ValueError(
                    f"the rationales of `{place}.synthesis` are what a recovery is trained on first: give "
                    "`recovery.stages: [rationale, answer]`, or leave `rationales` out"
                )
            if wanted and not written:
                raise ValueError(
                    f"`recovery.stages` trains on rationales: give `{place}.synthesis` with `rationales: true`, or "
                    "leave `stages` out"
                )
        return self

    @model_validator(mode="after")
    def _check_recovery(self) -> Self:
        if self.recovery is None:
            return self
        if Format.indices in self.output.formats:
            raise ValueError(
                "`output.formats: indices` cannot store the weights that `recovery` trains: give `safetensors` alone"
            )
        if self.target.sweep is not None:
            raise ValueError("`target.sweep` does not train its models: give another target with `recovery`")
        if self.recovery.seconds >= self.deadline_seconds:
            raise ValueError("`recovery.seconds` must be less than `deadline_seconds`, within which the job has to end")
        return self
