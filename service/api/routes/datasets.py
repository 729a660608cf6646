"""Routes that upload, list, read and delete data sets."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from fastapi import Path as InPath

from service.api.dependencies import Cursor, Reader, SettingsDep, StoredDep, Uploader, UploadsDep
from service.api.links import LinksDep
from service.api.problems import problem_responses
from service.contract.answers.resources import Dataset, DatasetPage
from service.settings import Settings
from service.storage.datasets import Uploads
from service.storage.row_formats import FORMAT_BY_MEDIA_TYPE, RowFormat, convert
from service.tenants.api_keys import Caller

PATH = "/datasets"
ROWS = '{"text": "a fine film", "label": "positive"}\n{"text": "dull", "label": "negative"}\n'
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The rows, in the format of the Content-Type header",
        "content": {
            "application/jsonl": BINARY | {"example": ROWS},
            "text/csv": BINARY | {"example": "text,label\na fine film,positive\ndull,negative\n"},
            "application/vnd.apache.parquet": BINARY,
        },
    }
}
SEE_DATASET: dict[str, Any] = {
    name: {"operationId": operation, "parameters": {"dataset_id": "$response.body#/id"}}
    for name, operation in (("dataset", "getDataset"), ("delete", "deleteDataset"))
}

router = APIRouter(tags=["datasets"])


@router.post(
    PATH,
    operation_id="createDataset",
    summary="Upload rows",
    status_code=status.HTTP_201_CREATED,
    response_model=Dataset,
    responses={**problem_responses(413, 415), 201: {"description": "The rows are stored", "links": SEE_DATASET}},
    openapi_extra=BODY,
)
async def create_dataset(
    request: Request,
    caller: Uploader,
    uploads: UploadsDep,
    stored: StoredDep,
    settings: SettingsDep,
    links: LinksDep,
    response: Response,
    name: Annotated[str | None, Query(max_length=256, description="a name for the data set")] = None,
    target: Annotated[
        str | None,
        Query(min_length=1, max_length=256, description="the column that is stored as `target`, for a generation task"),
    ] = None,
) -> Dataset:
    """Store rows in JSON Lines, CSV or Parquet under a `dataset://` URI.

    Every row is checked. Values must be texts, numbers, booleans or null.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    row_format = FORMAT_BY_MEDIA_TYPE.get(media_type)
    if row_format is None:
        raise HTTPException(415, f"Content-Type is not a format of rows: send one of {', '.join(FORMAT_BY_MEDIA_TYPE)}")
    if caller.key_id is not None:
        await asyncio.to_thread(stored.check_quota, caller.tenant, settings.max_stored_bytes)
    with tempfile.TemporaryDirectory(prefix="taskslim-upload-") as directory:
        await receive(request, Path(directory) / "body")
        upload = Upload(Path(directory), row_format, name, target)
        dataset = await asyncio.to_thread(_keep, upload, caller, uploads, settings)
    response.headers["Location"] = links.dataset(dataset.id)
    return dataset


async def receive(request: Request, path: Path) -> None:
    """Write the body to a file while it is received; `BodyLimit` limits its size."""
    with path.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)


class Upload(NamedTuple):
    """A body that was received as `body` in a directory, and what the request says of it."""

    directory: Path
    row_format: RowFormat
    name: str | None
    target_column: str | None


def _keep(upload: Upload, caller: Caller, uploads: Uploads, settings: Settings) -> Dataset:
    source, lines = upload.directory / "body", upload.directory / "rows.jsonl"
    content = convert(
        source, upload.row_format, lines, max_bytes=settings.max_dataset_bytes, target_column=upload.target_column
    )
    quota = settings.max_stored_bytes if caller.key_id is not None else None
    return uploads.add(lines, content, caller.tenant, name=upload.name, days=settings.retention_days, quota=quota)


@router.get(PATH, operation_id="listDatasets", summary="List data sets, newest first", responses=problem_responses())
def list_datasets(
    caller: Reader,
    uploads: UploadsDep,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=100, description="number of data sets on a page")] = 20,
) -> DatasetPage:
    """A page of the tenant's uploads. Inline rows of a job belong to the job and are not listed."""
    return uploads.page(caller.tenant, cursor=cursor, limit=limit)


DatasetId = Annotated[str, InPath(description="the data set's `id`", examples=["01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"])]


@router.get(
    "/datasets/{dataset_id}",
    operation_id="getDataset",
    summary="Read a data set",
    responses=problem_responses(404),
)
def get_dataset(dataset_id: DatasetId, caller: Reader, uploads: UploadsDep) -> Dataset:
    """The number of rows, the columns and the time of deletion of a data set."""
    return uploads.get(caller.tenant, dataset_id)


@router.delete(
    "/datasets/{dataset_id}",
    operation_id="deleteDataset",
    summary="Delete a data set",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="The data set is deleted",
    responses=problem_responses(404),
)
def delete_dataset(dataset_id: DatasetId, caller: Uploader, uploads: UploadsDep) -> None:
    """Delete the rows. A job that has not read them yet will fail; reports keep their digest."""
    uploads.delete(caller.tenant, dataset_id)
