"""Routes that list and download the files of a job and read its report."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import ValidationError

from service.api.dependencies import (
    ArtifactsRecord,
    CallerDep,
    DownloadedRecord,
    SettingsDep,
    SignedLinksDep,
    StorageDep,
    artifact_path,
)
from service.api.file_responses import DownloadHeadersDep, file_responses, send
from service.api.links import JobLinks, LinksDep
from service.api.problems import problem_responses
from service.contract.answers.report import Report
from service.contract.answers.resources import Artifact, ArtifactPage, StoredFile
from service.contract.errors import NotFound
from service.jobs.record import JobRecord
from service.reports import html
from service.storage.artifact_names import REPORT
from service.storage.keys import attempt_prefix
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage
from service.tenants.api_keys import Caller
from service.tenants.signed_links import SignedLinks

PAGE = "text/html"

router = APIRouter(tags=["artifacts"])


@router.get(
    "/jobs/{job_id}/artifacts",
    operation_id="listArtifacts",
    summary="List a job's files",
    responses=problem_responses(404, 409),
)
def list_artifacts(
    record: ArtifactsRecord, caller: CallerDep, storage: StorageDep, signed_links: SignedLinksDep, links: LinksDep
) -> ArtifactPage:
    """The files of a succeeded job, each with its size and SHA-256; empty for any other job.

    With an API key, the URLs of the files work without the key for an hour.
    """
    manifest = committed_manifest(storage, record.tenant, record.id)
    files = manifest.files if manifest else []
    return ArtifactPage(
        data=[
            Artifact(
                name=file.name, size=file.size, sha256=file.sha256, url=_url(links, signed_links, caller, record, file)
            )
            for file in files
        ]
    )


@router.get(
    "/jobs/{job_id}/artifacts/{name:path}",
    operation_id="getArtifact",
    summary="Download a file",
    response_class=Response,
    responses=file_responses(409),
)
def get_artifact(
    name: str,
    record: DownloadedRecord,
    storage: StorageDep,
    settings: SettingsDep,
    wanted: DownloadHeadersDep,
) -> Response:
    """The content of a file, or a redirect to a signed URL where the object store supports them.

    The request needs an API key or a signed link. The ETag is the file's SHA-256. A `Range` header with several ranges
    gets the whole file.
    """
    file, key = _find_file(record, name, storage)
    return send(storage, key, file, wanted, redirect=settings.redirect_downloads)


@router.get(
    "/jobs/{job_id}/report",
    operation_id="getReport",
    summary="Read a job's report",
    response_model=Report,
    responses={
        **problem_responses(404, 409),
        200: {"description": "The report", "content": {PAGE: {"schema": {"type": "string"}}}},
    },
)
def get_report(
    record: ArtifactsRecord,
    storage: StorageDep,
    accept: Annotated[str | None, Header(description="`text/html`: the report as a self-contained page")] = None,
) -> Response:
    """What is needed to judge the result of a job and to reproduce it, as JSON or as an HTML page."""
    manifest = committed_manifest(storage, record.tenant, record.id)
    if manifest is None:
        raise NotFound(f"the job is {record.status}: only a succeeded job has a report")
    content = storage.get_bytes(attempt_prefix(record.tenant, record.id, manifest.attempt) + REPORT)
    if PAGE not in (accept or ""):
        return Response(content, media_type="application/json")
    headers = {"Content-Security-Policy": f"default-src 'none'; style-src {html.style_source()}"}
    return Response(html.render(_parse_report(content)), media_type=PAGE, headers=headers)


def _parse_report(content: bytes) -> Report:
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        message = "the report was written by another version: download the artifact report.html instead"
        raise NotFound(message) from error


def _url(links: JobLinks, signed_links: SignedLinks, caller: Caller, record: JobRecord, file: StoredFile) -> str:
    url = links.artifact(record.id, file.name)
    if caller.key_id is None:
        return url
    return f"{url}?{signed_links.issue(record.tenant, artifact_path(record.id, file.name)).query}"


def _find_file(record: JobRecord, name: str, storage: Storage) -> tuple[StoredFile, str]:
    manifest = committed_manifest(storage, record.tenant, record.id)
    for file in manifest.files if manifest else []:
        if manifest and file.name == name:
            return file, f"{attempt_prefix(record.tenant, record.id, manifest.attempt)}{name}"
    raise NotFound(f"the job has no artifact {name!r}: `GET /jobs/{record.id}/artifacts` lists its files")
