"""The Prometheus metrics of an API process.

Metrics of jobs are counted in Redis, because the process that runs a job ends with it, and because the script that
changes a status also counts the change, exactly once (`service.jobs.state_machine`). Every API process exposes the same
values of them, so a query takes the maximum over processes. Metrics of HTTP requests are counted in the process.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as CollectorProtocol
from redis import Redis

from service.contract.answers.job import JobStatus
from service.contract.ids import time_of
from service.infrastructure.counters import COUNTERS, METRICS, StoredMetric
from service.infrastructure.redis_keys import OPEN, index_key
from service.infrastructure.worker_registry import WORKERS, live_workers
from service.jobs.rq_jobs import QUEUE

MEMBERS_AT_ONCE = 1000  # of the set of open jobs in one call, which blocks Redis


class Collector(CollectorProtocol):
    """Reads the metrics of jobs, queue and workers from Redis at every scrape."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        fields = cast(dict[str, str], self._redis.hgetall(COUNTERS))
        samples: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METRICS}
        for field, value in fields.items():
            name, *labels = field.split("|")
            if is_known(name, labels):
                samples[name][tuple(labels)] = float(value)
        for name, figure in METRICS.items():
            yield family_of(name, figure, samples[name])
        yield from self._queue()
        yield from self._workers()

    def _queue(self) -> Iterator[Metric]:
        """Metrics of all queued jobs, including those that are not in RQ yet because of their tenant's limit."""
        count, oldest = self._waiting()
        depth = GaugeMetricFamily("slim_queue_depth", "Queued jobs", labels=["queue"])
        depth.add_metric([QUEUE], count)
        yield depth
        age = GaugeMetricFamily("slim_queue_oldest_age_seconds", "Age of the oldest queued job", labels=["queue"])
        age.add_metric([QUEUE], _age(oldest) if oldest else 0.0)
        yield age

    def _waiting(self) -> tuple[int, str | None]:
        """The number of queued jobs, and the id of the oldest."""
        members = cast(Iterator[tuple[str, float]], self._redis.zscan_iter(OPEN, count=MEMBERS_AT_ONCE))
        with self._redis.pipeline(transaction=False) as pipe:
            for tenant in {member.partition("/")[0] for member, _ in members}:
                pipe.zcard(index_key(tenant, JobStatus.queued))
                pipe.zrange(index_key(tenant, JobStatus.queued), 0, 0)
            answers = pipe.execute()
        return sum(answers[::2]), min((job_id for first in answers[1::2] for job_id in first), default=None)

    def _workers(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily("slim_workers", "Worker processes", labels=["state"])
        workers.add_metric(["live"], len(live_workers(self._redis)))
        yield workers
        heard = GaugeMetricFamily(
            "slim_worker_last_heartbeat_timestamp_seconds", "Time of the last heartbeat of any worker"
        )
        newest = cast(list[tuple[str, float]], self._redis.zrevrange(WORKERS, 0, 0, withscores=True))
        heard.add_metric([], newest[0][1] if newest else 0.0)
        yield heard


def is_known(name: str, labels: Sequence[str]) -> bool:
    """Whether this version has the metric with these labels; Redis may hold metrics of a later version."""
    figure = METRICS.get(name)
    return figure is not None and len(labels) == len(figure.labels) + (figure.kind == "histogram")


def family_of(name: str, figure: StoredMetric, samples: Mapping[tuple[str, ...], float]) -> Metric:
    """A metric of the Prometheus client library, from its values in Redis."""
    if figure.kind == "histogram":
        return _histogram(name, figure, samples)
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = kind(name, figure.help, labels=list(figure.labels))
    for labels, value in sorted(samples.items()):
        family.add_metric(list(labels), value)
    return family


def _histogram(name: str, figure: StoredMetric, samples: Mapping[tuple[str, ...], float]) -> Metric:
    family = HistogramMetricFamily(name, figure.help, labels=list(figure.labels))
    for labels in sorted({key[:-1] for key in samples}):
        in_buckets = [samples.get((*labels, str(bucket)), 0.0) for bucket in range(len(figure.bounds) + 1)]
        bounds = [*map(str, figure.bounds), "+Inf"]
        family.add_metric(list(labels), list(zip(bounds, _sums(in_buckets), strict=True)), samples[(*labels, "sum")])
    return family


def _sums(values: Iterable[float]) -> Iterator[float]:
    total = 0.0
    for value in values:
        total += value
        yield total


def _age(job_id: str) -> float:
    """Seconds since the job was created, by the time in its id."""
    return max(0.0, (datetime.now(UTC) - time_of(job_id)).total_seconds())


class HttpMetrics:
    """The registry of an API process: metrics of its requests and those in Redis."""

    def __init__(self, redis: Redis, version: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Collector(redis))
        self.requests = Counter(
            "slim_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.duration = Histogram(
            "slim_http_request_duration_seconds", "HTTP requests", ["method", "route"], registry=self.registry
        )
        build = Gauge("slim_build_info", "The version of the service, as a label", ["version"], registry=self.registry)
        build.labels(version).set(1)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is the path template, so that ids do not create time series."""
        self.requests.labels(method, route, str(status)).inc()
        self.duration.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """The metrics in the Prometheus exposition format."""
        return generate_latest(self.registry)
