"""Rows that a request contains. They are stored as JSON Lines in object storage, as long as their job.

The rows are stored before the record of the job is written. Until then `slim:expiries` has the member
`rows/{tenant}/{job id}`, by which the rows of a job that was never recorded are deleted; writing the record removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis

from service.contract.request.job_request import JobRequest
from service.contract.request.presets import AnyTask
from service.contract.request.task import DataSource, GeneralRows, Task
from service.contract.row_values import RowValues
from service.infrastructure.redis_keys import EXPIRIES, IDEMPOTENCY_SECONDS, expiry_member
from service.storage.keys import dataset_key, dataset_prefix, dataset_uri
from service.storage.object_store import Storage
from service.storage.row_formats import json_line
from service.tenants.storage_quota import StoredBytes

PARTS = ("calibration", "evaluation", "texts")
ORPHANED_SECONDS = IDEMPOTENCY_SECONDS  # a request that is repeated later than this cannot create the job


def take_rows(request: JobRequest, job_id: str) -> tuple[JobRequest, dict[str, bytes]]:
    """(the request with `dataset://` URIs in place of its inline rows, data set id -> these rows as JSON Lines)."""
    files: dict[str, bytes] = {}

    def take(source: DataSource, dataset_id: str) -> DataSource:
        if source.rows is None:
            return source
        files[dataset_id] = json_lines(source.rows)
        return source.model_copy(update={"rows": None, "uri": dataset_uri(dataset_id)})

    def keep(task: AnyTask, name: str) -> AnyTask:
        sources = ((part, getattr(task, part, None)) for part in PARTS)
        kept: dict[str, object] = {part: take(source, f"{job_id}/{name}-{part}") for part, source in sources if source}
        if isinstance(task, Task) and task.general is not None:
            kept["general"] = keep_general(task.general, f"{name}-general")
        if isinstance(task, Task):
            kept["evaluations"] = {
                of: take(source, f"{job_id}/{name}-evaluations.{of}") for of, source in task.evaluations.items()
            }
        return task.model_copy(update=kept)

    def keep_general(rows: GeneralRows, name: str) -> GeneralRows:
        taken = take(rows.task.calibration, f"{job_id}/{name}-calibration")
        return keep(rows, name).model_copy(update={"rows": taken.rows, "uri": taken.uri})

    kept: dict[str, object] = {
        "task": keep(request.task, "task") if request.task else None,
        "tasks": [keep(task, f"tasks-{index}") for index, task in enumerate(request.tasks)],
        "observe": [keep(task, f"observe-{index}") for index, task in enumerate(request.observe)],
    }
    return request.model_copy(update=kept), files


@dataclass(frozen=True)
class InlineRows:
    """Stores the inline rows of jobs. Errors of the object store and of Redis are passed on."""

    redis: Redis
    storage: Storage
    stored: StoredBytes

    def keep(self, files: Mapping[str, bytes], *, tenant: str, job_id: str, quota: int | None) -> None:
        """Store what `take_rows` took out. Raises LimitExceeded if the tenant would store more than `quota` bytes."""
        if not files:
            return
        self.stored.reserve_bytes(tenant, _item(job_id), sum(map(len, files.values())), quota)
        expiry = datetime.now(UTC).timestamp() + ORPHANED_SECONDS
        self.redis.zadd(EXPIRIES, {expiry_member("rows", tenant, job_id): int(expiry * 1000)})
        for dataset_id, lines in files.items():
            self.storage.put_bytes(lines, dataset_key(tenant, dataset_id))

    def drop(self, tenant: str, job_id: str) -> None:
        """Delete the rows that `keep` stored for a job, also where it stored only a part of them."""
        self.storage.delete_prefix(dataset_prefix(tenant, job_id))
        self.stored.record(tenant, _item(job_id), 0)
        self.redis.zrem(EXPIRIES, expiry_member("rows", tenant, job_id))


def _item(job_id: str) -> str:
    """The name of a job's rows among the tenant's stored bytes."""
    return f"rows/{job_id}"


def json_lines(rows: list[RowValues]) -> bytes:
    """The rows as JSON Lines."""
    return b"".join(map(json_line, rows))
