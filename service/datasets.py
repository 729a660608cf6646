"""Rows that came in a request: kept in object storage as JSON Lines, for as long as their job is kept."""

import json

from service.presets import AnyTask
from service.schemas import DataSource, JobRequest, Row, Task
from service.storage import Storage, dataset_key, dataset_prefix

PARTS = ("calibration", "evaluation")


def keep_rows(request: JobRequest, *, tenant: str, job_id: str, storage: Storage) -> JobRequest:
    """Move the request's inline rows to storage; in the request that comes back they are `dataset://` URIs."""

    def keep(task: AnyTask, name: str) -> AnyTask:
        sources = ((part, getattr(task, part, None)) for part in PARTS)
        kept: dict[str, object] = {
            part: _keep(source, tenant, f"{job_id}/{name}-{part}", storage) for part, source in sources if source
        }
        if isinstance(task, Task):
            kept["evaluations"] = {
                of: _keep(source, tenant, f"{job_id}/{name}-evaluations.{of}", storage)
                for of, source in task.evaluations.items()
            }
        return task.model_copy(update=kept)

    kept: dict[str, object] = {
        "task": keep(request.task, "task") if request.task else None,
        "tasks": [keep(task, f"tasks-{index}") for index, task in enumerate(request.tasks)],
        "observe": [keep(task, f"observe-{index}") for index, task in enumerate(request.observe)],
    }
    return request.model_copy(update=kept)


def drop_rows(*, tenant: str, job_id: str, storage: Storage) -> None:
    """Delete what `keep_rows` stored for a job."""
    storage.delete_prefix(dataset_prefix(tenant, job_id))


def _keep(source: DataSource, tenant: str, dataset_id: str, storage: Storage) -> DataSource:
    if source.rows is None:
        return source
    storage.put_bytes(json_lines(source.rows), dataset_key(tenant, dataset_id))
    return source.model_copy(update={"rows": None, "uri": f"dataset://{dataset_id}"})


def json_lines(rows: list[Row]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
