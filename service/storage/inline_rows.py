"""Rows that came in a request: kept in object storage as JSON Lines, for as long as their job is kept.

They are stored before their job's record is made. In between, and for good where no record follows because a process
died or Redis' answer was lost, `slim:expiries` has `rows/{tenant}/{job id}`; making the record takes it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis

from service.contract.fields import RowValues
from service.contract.presets import AnyTask
from service.contract.request import JobRequest
from service.contract.task import DataSource, Task
from service.infrastructure.redis_keys import EXPIRIES, IDEMPOTENCY_SECONDS
from service.storage.keys import dataset_key, dataset_prefix
from service.storage.object_store import Storage
from service.storage.row_formats import json_line
from service.tenants.storage_quota import StoredBytes

PARTS = ("calibration", "evaluation")
ORPHANED_SECONDS = IDEMPOTENCY_SECONDS  # after it no repeated request can make the job


def take_rows(request: JobRequest, job_id: str) -> tuple[JobRequest, dict[str, bytes]]:
    """The request with `dataset://` URIs in place of its inline rows, and those: id of the data set -> JSON Lines."""
    files: dict[str, bytes] = {}

    def take(source: DataSource, dataset_id: str) -> DataSource:
        if source.rows is None:
            return source
        files[dataset_id] = json_lines(source.rows)
        return source.model_copy(update={"rows": None, "uri": f"dataset://{dataset_id}"})

    def keep(task: AnyTask, name: str) -> AnyTask:
        sources = ((part, getattr(task, part, None)) for part in PARTS)
        kept: dict[str, object] = {part: take(source, f"{job_id}/{name}-{part}") for part, source in sources if source}
        if isinstance(task, Task):
            kept["evaluations"] = {
                of: take(source, f"{job_id}/{name}-evaluations.{of}") for of, source in task.evaluations.items()
            }
        return task.model_copy(update=kept)

    kept: dict[str, object] = {
        "task": keep(request.task, "task") if request.task else None,
        "tasks": [keep(task, f"tasks-{index}") for index, task in enumerate(request.tasks)],
        "observe": [keep(task, f"observe-{index}") for index, task in enumerate(request.observe)],
    }
    return request.model_copy(update=kept), files


@dataclass(frozen=True)
class InlineRows:
    """The rows of all jobs. Storage's errors and Redis' pass through."""

    redis: Redis
    storage: Storage
    stored: StoredBytes

    def keep(self, files: Mapping[str, bytes], *, tenant: str, job_id: str, quota: int | None) -> None:
        """Store what `take_rows` took for a job. Raises `LimitExceeded` where it does not fit in the tenant's store."""
        if not files:
            return
        self.stored.reserve_bytes(tenant, _item(job_id), sum(map(len, files.values())), quota)
        expiry = datetime.now(UTC).timestamp() + ORPHANED_SECONDS
        self.redis.zadd(EXPIRIES, {expiry_member(tenant, job_id): int(expiry * 1000)})
        for dataset_id, lines in files.items():
            self.storage.put_bytes(lines, dataset_key(tenant, dataset_id))

    def drop(self, tenant: str, job_id: str) -> None:
        """Delete what `keep` stored for a job, or a part of it."""
        self.storage.delete_prefix(dataset_prefix(tenant, job_id))
        self.stored.record(tenant, _item(job_id), 0)
        self.redis.zrem(EXPIRIES, expiry_member(tenant, job_id))


def expiry_member(tenant: str, job_id: str) -> str:
    return f"rows/{tenant}/{job_id}"


def _item(job_id: str) -> str:
    return f"rows/{job_id}"


def json_lines(rows: list[RowValues]) -> bytes:
    """The rows as JSON Lines."""
    return b"".join(map(json_line, rows))
