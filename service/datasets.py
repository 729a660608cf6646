"""Rows that came in a request: kept in object storage as JSON Lines, for as long as their job is kept."""

import json

from service.schemas import DataSource, JobRequest, Row
from service.storage import Storage, dataset_key, dataset_prefix

PARTS = ("calibration", "evaluation")


def keep_rows(request: JobRequest, *, tenant: str, job_id: str, storage: Storage) -> JobRequest:
    """Move the request's inline rows to storage; in the request that comes back they are `dataset://` URIs."""
    kept = {part: _keep(getattr(request.task, part), tenant, f"{job_id}-{part}", storage) for part in PARTS}
    return request.model_copy(update={"task": request.task.model_copy(update=kept)})


def drop_rows(*, tenant: str, job_id: str, storage: Storage) -> None:
    """Delete what `keep_rows` stored for a job."""
    for part in PARTS:
        storage.delete_prefix(dataset_prefix(tenant, f"{job_id}-{part}"))


def _keep(source: DataSource | None, tenant: str, dataset_id: str, storage: Storage) -> DataSource | None:
    if source is None or source.rows is None:
        return source
    storage.put_bytes(json_lines(source.rows), dataset_key(tenant, dataset_id))
    return source.model_copy(update={"rows": None, "uri": f"dataset://{dataset_id}"})


def json_lines(rows: list[Row]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
