"""The usage of a job that succeeded: its part of the counters and of its tenant's storage, read from its report."""

import structlog
from redis import Redis, RedisError

from service.contract.answers.report import Report
from service.contract.errors import StorageUnavailable
from service.infrastructure.counters import Counters
from service.planning.time_estimate import Durations
from service.storage.artifact_names import REPORT
from service.storage.keys import attempt_prefix
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage
from service.tenants.storage_quota import StoredBytes

log = structlog.get_logger()


def record_usage(redis: Redis, storage: Storage, tenant: str, job_id: str) -> None:
    """Record the usage of a job. The caller that made the job `succeeded` calls this once.

    Where Redis or storage fails, the rest is not recorded, which is logged: the job has succeeded all the same.
    """
    try:
        _record(redis, storage, tenant, job_id)
    except (RedisError, StorageUnavailable):
        log.exception("the usage of the job was not recorded", tenant=tenant, job_id=job_id)


def _record(redis: Redis, storage: Storage, tenant: str, job_id: str) -> None:
    manifest = committed_manifest(storage, tenant, job_id)
    if manifest is None:
        return
    size = sum(file.size for file in manifest.files)
    counters = Counters(redis)
    StoredBytes(redis).record(tenant, f"job/{job_id}", size)
    counters.count("slim_artifact_bytes", by=size)
    report = Report.model_validate_json(storage.get_bytes(attempt_prefix(tenant, job_id, manifest.attempt) + REPORT))
    for timing in report.timings:
        counters.observe("slim_job_stage_duration_seconds", timing.stage, value=timing.seconds)
    counters.observe("slim_params_removed_ratio", value=report.result.ratio)
    Durations(redis).record(report)
    device = report.result.latency_ms.device
    if report.peak_memory_bytes is not None and device != "cpu":
        counters.set("slim_gpu_memory_peak_bytes", device, value=report.peak_memory_bytes.dense)
