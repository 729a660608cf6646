"""Counters of jobs. They are kept in Redis, because the process that counts ends with its job.

`service.api.metrics` exposes them to Prometheus. Fields of the hash `slim:counters` read `name|value of label|...`; a
histogram has one for each bucket (its index, not cumulative) and one for the sum.
"""

from dataclasses import dataclass
from typing import Literal

from redis import Redis

COUNTERS = "slim:counters"
SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class StoredMetric:
    """The definition of a metric in Redis. Its fields are `name|value of label|...`, of histograms with `|bucket`."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = SECONDS


METRICS: dict[str, StoredMetric] = {
    "slim_jobs": StoredMetric("gauge", "Jobs of each status", ("status",)),
    "slim_jobs_submitted": StoredMetric("counter", "Jobs accepted", ("task", "method")),
    "slim_jobs_completed": StoredMetric("counter", "Jobs finished", ("task", "method", "outcome")),
    "slim_job_duration_seconds": StoredMetric("histogram", "From a job's first start to its end", ("task", "outcome")),
    "slim_job_queue_wait_seconds": StoredMetric("histogram", "From a job's creation to its first start"),
    "slim_job_stage_duration_seconds": StoredMetric("histogram", "One stage of one attempt", ("stage",)),
    "slim_job_attempts": StoredMetric("counter", "Attempts started", ("reason",)),
    "slim_jobs_reclaimed": StoredMetric(
        "counter", "Attempts lost: their worker died, or the queue lost the RQ job", ("cause",)
    ),
    "slim_gpu_memory_peak_bytes": StoredMetric(
        "gauge", "Most GPU memory that a forward pass of the last job's dense model held", ("device",)
    ),
    "slim_params_removed_ratio": StoredMetric("histogram", "Share of the chosen units' parameters removed", (), RATIOS),
    "slim_artifact_bytes": StoredMetric("counter", "Bytes of artifacts stored"),
    "slim_webhook_deliveries": StoredMetric("counter", "Attempts to deliver a webhook", ("outcome",)),
    "slim_idempotent_replays": StoredMetric("counter", "Requests answered with a stored response"),
}


class Counters:
    """Adds to the counters."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        self._redis.hincrby(COUNTERS, field_of(name, *labels), by)

    def set(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        self._redis.hset(COUNTERS, field_of(name, *labels), str(value))

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add one observation to a histogram."""
        bucket = sum(value > bound for bound in METRICS[name].bounds)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(COUNTERS, field_of(name, *labels, str(bucket)), 1)
            pipe.hincrbyfloat(COUNTERS, field_of(name, *labels, "sum"), value)
            pipe.execute()


def field_of(name: str, *labels: str) -> str:
    """The field of a metric in the hash of counters."""
    return "|".join((name, *labels))
