"""Finished jobs of one model and task beside each other, as the API returns them."""

from enum import StrEnum

from pydantic import Field

from service.contract.answers.result import Estimate
from service.contract.fields import Schema, Tags
from service.contract.options import Layout, Repair, Supervision, TaskMetric, Unit
from service.contract.request.recovery import RecoveryMethod
from service.contract.request.task import ModelSource


class Size(StrEnum):
    """What the metric of a model is set against; less is better."""

    parameters = "parameters"
    bytes = "bytes"
    latency_ms = "latency_ms"


class Figures(Schema):
    """How large and how fast a model is, and its metric."""

    parameters: int
    bytes: int = Field(description="size of its weight files")
    latency_ms: float | None = Field(
        default=None, description="median time of a forward pass; null where it was not measured"
    )
    examples: int = Field(description="evaluation rows that it was judged on")
    metric: Estimate = Field(description="its metric with the 95 % confidence interval, as for `metrics.slim.value`")
    frontier: list[Size] = Field(
        default=[],
        description="the sizes by which the model is on the frontier: no model that is at most as large has a higher "
        "metric, and none with the same metric is smaller",
    )


class ComparedModel(Figures):
    """A slim model of a job; a sweep has several."""

    job_id: str
    artifact: str | None = Field(description="directory of its checkpoint among the job's files; null: not stored")
    ratio: float = Field(description="share of the chosen units' parameters that was removed")
    units: list[Unit]
    layout: Layout
    repair: Repair
    recovery: RecoveryMethod | None = Field(default=None, description="how it was trained after the cut; null: not")
    tags: Tags = Field(description="the tags of the job")


class LatencyInput(Schema):
    """What a latency was measured on."""

    batch: int = Field(description="rows of a pass")
    tokens: int = Field(description="tokens of each row")
    device: str = Field(description="name of the worker's device")


class Comparison(Schema):
    """The slim models of several jobs and their dense model, judged on the same rows."""

    model: ModelSource = Field(description="the dense model, as the first job names it")
    task: str = Field(description="title of the task")
    metric: TaskMetric | None = Field(
        default=None, description="`task.metric`; null over several tasks with different metrics"
    )
    judged_by: Supervision
    latency: LatencyInput | None = Field(
        default=None,
        description="what all latencies were measured on; null where the jobs differ, so that there is no frontier by "
        "`latency_ms`",
    )
    dense: Figures = Field(
        description="the dense model: its metric in the first job with the most rows, the median of its latencies"
    )
    models: list[ComparedModel] = Field(description="in the order of the jobs")
