"""The manifest of a job in storage: writing it commits the result, before the record in Redis says so."""

import structlog

from service.contract.answers.report import Report
from service.contract.answers.resources import Manifest
from service.contract.answers.result import Result
from service.contract.errors import NotFound, StorageUnavailable
from service.storage.artifact_names import REPORT
from service.storage.keys import attempt_prefix, job_prefix, manifest_key, shards_prefix
from service.storage.object_store import Storage

log = structlog.get_logger()


def committed_manifest(storage: Storage, tenant: str, job_id: str) -> Manifest | None:
    """The manifest of the attempt that succeeded; None if none has."""
    try:
        return Manifest.model_validate_json(storage.get_bytes(manifest_key(tenant, job_id)))
    except NotFound:
        return None


def committed_report(storage: Storage, tenant: str, job_id: str) -> Report | None:
    """The report of the attempt that succeeded; None if none has. Raises ValidationError for one of another version."""
    manifest = committed_manifest(storage, tenant, job_id)
    if manifest is None:
        return None
    return Report.model_validate_json(storage.get_bytes(attempt_prefix(tenant, job_id, manifest.attempt) + REPORT))


def committed_result(storage: Storage, tenant: str, job_id: str) -> Result | None:
    """The result in the report of the attempt that succeeded; None if none has."""
    report = committed_report(storage, tenant, job_id)
    return None if report is None else report.result


def delete_attempts(storage: Storage, tenant: str, job_id: str, last: int) -> None:
    """Delete the files of the attempts up to `last`, except those of the attempt that succeeded.

    What shards have measured goes once an attempt has succeeded: until then the next one can use it.
    """
    manifest = committed_manifest(storage, tenant, job_id)
    if manifest is not None:
        storage.delete_prefix(shards_prefix(tenant, job_id))
    for attempt in range(1, last + 1):
        if manifest is None or attempt != manifest.attempt:
            storage.delete_prefix(attempt_prefix(tenant, job_id, attempt))


def delete_job_files(storage: Storage, tenant: str, job_id: str) -> None:
    """Delete all files of a job that has ended without a result. If storage fails, they stay until the job expires."""
    try:
        storage.delete_prefix(job_prefix(tenant, job_id))
    except StorageUnavailable:
        log.exception("files of the job were not deleted", tenant=tenant, job_id=job_id)
