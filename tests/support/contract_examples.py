"""A valid request, result and report for tests that run no model."""

from typing import cast

from redis import Redis

from service.contract.answers.report import Report
from service.contract.answers.result import DenseSlim, MetricsPair, QuantisedModel, RecoveryResult, Result
from service.contract.options import Precision
from service.infrastructure.redis_keys import OPEN
from service.jobs.record import JobRecord
from service.storage.artifact_names import quantised_name
from tests.support.requests import plain_request

REQUEST = plain_request(tags={"team": "search"})


def result() -> Result:
    """A result with its required fields."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"examples": 20, "metric": "accuracy", "value": estimate, "raw": estimate}
    metrics |= {"constant": 0.5, "majority": 0.5}
    return Result.model_validate(
        {
            "metrics": {"dense": metrics, "slim": metrics},
            "parameters": {"dense": 10, "slim": 7},
            "bytes": {"dense": 20, "slim": 14},
            "latency_ms": {
                "dense": 2,
                "slim": 1,
                "dense_quartiles": {"first": 1.9, "third": 2.2},
                "slim_quartiles": {"first": 0.9, "third": 1.1},
                "batch": 4,
                "tokens": 64,
                "runs": 5,
                "device": "cpu",
            },
            "widths": [{"stack": "decoder", "unit": "ffn", "dense": 48, "slim": 32}],
            "ratio": 0.33,
            "verified": {
                "loader": "AutoModelForCausalLM",
                "max_abs_logit_difference": 0,
                "tolerance": 1e-5,
                "dtype": "float32",
            },
        }
    )


def recovery() -> RecoveryResult:
    """How the model of `result` may have been trained."""
    found = result()
    metrics = {"dense": found.metrics.dense, "slim": found.metrics.slim, "recovered": found.metrics.slim}
    losses = [(0, None, 0.9), (4, 0.7, 0.6), (8, 0.4, 0.5), (12, 0.3, 0.55)]
    return RecoveryResult.model_validate(
        {
            "metrics": metrics,
            "losses": [{"step": step, "train": train, "held_out": held_out} for step, train, held_out in losses],
            "steps": 12,
            "best_step": 8,
            "stopped_by": "steps",
            "seconds": 12.5,
            "train_rows": 80,
            "held_out_rows": 20,
            "tokens": 12_000,
            "lora_parameters": 5_000,
            "rank": 8,
            "learning_rate": 1e-3,
            "label_weight": 0.5,
            "merge_difference": 1e-6,
            "artifact": "model-untrained",
            "verified": found.verified,
        }
    )


def quantised_model(of: Result, precision: Precision) -> QuantisedModel:
    """A quantised copy of the model of a result, with its metrics and half of its size."""
    return QuantisedModel(
        precision=precision,
        directory=quantised_name(precision),
        metrics=MetricsPair(dense=of.metrics.dense, slim=of.metrics.slim),
        bytes=DenseSlim(dense=of.bytes.dense // 2, slim=of.bytes.slim // 2),
        loader="LlamaForCausalLM, compressed-tensors",
        max_abs_logit_difference=0.0,
        tolerance=1e-4,
        snippet="model = load()\n",
    )


def report(job: JobRecord, attempt: int) -> Report:
    """The report of an attempt."""
    return Report(
        job_id=job.id,
        attempt=attempt,
        request=job.request,
        task={},
        family="llama",
        result=result(),
        options={},
        calibration_examples=20,
        shortened_prompts=0,
        timings=[],
        versions={},
        digests={},
        snippet="",
    )


def make_checks_due(redis: Redis) -> None:
    """Make the reconciler's check of every unfinished job due."""
    for member in cast(list[str], redis.zrange(OPEN, 0, -1)):
        redis.zadd(OPEN, {member: 0})
