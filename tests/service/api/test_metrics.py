"""The Prometheus metrics of jobs, the queue, workers and HTTP requests."""

import multiprocessing
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from ulid import ULID

from service.api.metrics import HttpMetrics, family_of
from service.contract.answers.job import JobError
from service.contract.answers.result import DenseSlim
from service.contract.request.job_request import JobRequest, Priority
from service.infrastructure.counters import COUNTERS, METRICS, RATIOS, Counters
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.jobs.usage import record_usage
from service.storage.object_store import Storage
from tests.support.contract_examples import report
from tests.support.finished_jobs import finish

REQUEST = JobRequest.model_validate(
    {
        "model": {"uri": "file:///models/one"},
        "task": {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}},
        "target": {"ratio": 0.3},
    }
)
ERROR = JobError(code="invalid_data", message="line 3")


def scraped(redis: Redis) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The scraped metrics: (sample, labels) -> value."""
    text = HttpMetrics(redis, "1.2.3").text().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(redis: Redis, name: str, **labels: str) -> float:
    return scraped(redis)[(name, frozenset(labels.items()))]


def test_transitions_of_a_job_are_counted(redis: Redis) -> None:
    job_store = JobStore(redis)
    record = job_store.accept(new_record(REQUEST, tenant="search"))
    job_store.accept(record)
    assert value(redis, "slim_jobs", status="queued") == 1
    lease = job_store.lease("search", record.id, 1, "worker-1")
    assert value(redis, "slim_jobs", status="queued") == 0
    assert value(redis, "slim_jobs", status="running") == 1
    job_store.fail(lease, ERROR)
    job_store.fail(lease, ERROR)
    assert value(redis, "slim_jobs", status="running") == 0
    assert value(redis, "slim_jobs_submitted_total", task="sst2", method="surgeon") == 1
    assert value(redis, "slim_jobs_completed_total", task="sst2", method="surgeon", outcome="failed") == 1
    assert value(redis, "slim_job_duration_seconds_count", task="sst2", outcome="failed") == 1
    assert value(redis, "slim_job_queue_wait_seconds_count") == 1
    assert value(redis, "slim_job_attempts_total", reason="first") == 1
    job_store.remove("search", record.id)
    assert value(redis, "slim_jobs", status="failed") == 0


def test_requeued_job_of_a_lost_worker_is_counted(redis: Redis) -> None:
    job_store = JobStore(redis, lease_seconds=0)
    record = job_store.accept(new_record(REQUEST, tenant="search"))
    assert job_store.requeue_overdue(job_store.lease("search", record.id, 1, "worker-1").job)
    job_store.lease("search", record.id, 2, "worker-2")
    assert value(redis, "slim_jobs_reclaimed_total", cause="worker_lost") == 1
    assert value(redis, "slim_job_attempts_total", reason="again") == 1
    assert value(redis, "slim_job_queue_wait_seconds_count") == 1


@pytest.mark.parametrize(("device", "shown"), [("cuda:0", 4096), ("cpu", None)])
def test_peak_gpu_memory_of_the_last_job_is_exposed(
    redis: Redis, storage: Storage, device: str, shown: int | None
) -> None:
    job_store = JobStore(redis)
    job = job_store.accept(new_record(REQUEST))
    found = report(job, 1)
    latency = found.result.latency_ms.model_copy(update={"device": device})
    content = found.model_copy(
        update={
            "peak_memory_bytes": DenseSlim(dense=4096, slim=2048),
            "result": found.result.model_copy(update={"latency_ms": latency}),
        }
    )
    finish(job, job_store, storage, {"report.json": content.model_dump_json().encode()})
    record_usage(redis, storage, job.tenant, job.id)
    assert scraped(redis).get(("slim_gpu_memory_peak_bytes", frozenset({("device", device)}))) == shown


def measure_and_exit(url: str) -> None:
    with connect(url) as redis:
        Counters(redis).observe("slim_job_stage_duration_seconds", "attribute", value=3.5)


def test_metrics_survive_the_process_that_counted_them(redis: Redis, redis_server: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=measure_and_exit, args=(redis_server,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert value(redis, "slim_job_stage_duration_seconds_sum", stage="attribute") == 3.5
    assert value(redis, "slim_job_stage_duration_seconds_bucket", stage="attribute", le="2.0") == 0
    assert value(redis, "slim_job_stage_duration_seconds_bucket", stage="attribute", le="5.0") == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_histogram_buckets_are_cumulative(redis_server: str, ratios: list[float]) -> None:
    with connect(redis_server) as redis:
        redis.flushall()
        for ratio in ratios:
            Counters(redis).observe("slim_params_removed_ratio", value=ratio)
        for bound in RATIOS:
            expected = sum(ratio <= bound for ratio in ratios)
            assert value(redis, "slim_params_removed_ratio_bucket", le=str(bound)) == expected
        assert value(redis, "slim_params_removed_ratio_count") == len(ratios)


def test_queue_depth_and_age_cover_all_queued_jobs(redis: Redis, redis_server: str) -> None:
    assert value(redis, "slim_queue_depth", queue="slim") == 0
    assert value(redis, "slim_queue_oldest_age_seconds", queue="slim") == 0
    job_store, queue = JobStore(redis), JobQueue(connect(redis_server, decode=False), max_running=1)
    an_hour_ago = str(ULID.from_timestamp(time.time() - 3600))
    job_store.lease("ads", job_store.accept(new_record(REQUEST, tenant="ads")).id, 1, "worker-1")
    for tenant, job_id, priority in (
        ("search", None, Priority.high),  # takes the tenant's one slot
        ("search", an_hour_ago, Priority.low),  # waits outside the queue
        ("ads", None, Priority.high),  # goes to the head of the queue
    ):
        request = REQUEST.model_copy(update={"priority": priority})
        queue.enqueue(job_store.accept(new_record(request, tenant=tenant, job_id=job_id)))
    assert queue.depth() == 2
    assert value(redis, "slim_queue_depth", queue="slim") == 3
    assert 3600 <= value(redis, "slim_queue_oldest_age_seconds", queue="slim") < 3660
    job_store.cancel("search", an_hour_ago)
    assert value(redis, "slim_queue_depth", queue="slim") == 2
    assert value(redis, "slim_queue_oldest_age_seconds", queue="slim") < 60


def test_worker_metrics_are_zero_without_a_worker(redis: Redis) -> None:
    assert value(redis, "slim_workers", state="live") == 0


def test_metrics_of_another_version_are_left_out(redis: Redis) -> None:
    redis.hset(COUNTERS, mapping={"slim_later|x": 1, "slim_jobs": 2, "slim_jobs|queued|gpu": 3, "slim_jobs|failed": 4})
    assert value(redis, "slim_jobs", status="failed") == 4
    assert not any("gpu" in sample + str(labels) or "later" in sample for sample, labels in scraped(redis))


def test_http_requests_are_counted_by_route(redis: Redis) -> None:
    metrics = HttpMetrics(redis, "1.2.3")
    metrics.record("GET", "/jobs/{job_id}", 200, 0.02)
    text = metrics.text().decode()
    assert 'slim_http_requests_total{method="GET",route="/jobs/{job_id}",status="200"} 1.0' in text
    assert 'slim_build_info{version="1.2.3"} 1.0' in text


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_exposed_before_its_first_value(name: str) -> None:
    assert family_of(name, METRICS[name], {}).name == name
