"""Finished jobs for tests: the record goes through its states and the files are in storage, without a model."""

import hashlib
from collections.abc import Mapping

from service.api.openapi.examples import SUCCEEDED
from service.contract.answers.job import JobError
from service.contract.answers.resources import Manifest, StoredFile
from service.contract.answers.result import Result
from service.jobs.record import JobRecord
from service.jobs.store import JobStore
from service.storage.keys import attempt_prefix, manifest_key
from service.storage.object_store import Storage

FILES = {
    "model/config.json": b'{"model_type": "llama"}',
    "model/model.safetensors": bytes(range(256)) * 4096,
    "report.json": b'{"job_id": "of a test"}',
}
RESULT = Result.model_validate(SUCCEEDED["result"])


def finish(
    record: JobRecord,
    job_store: JobStore,
    storage: Storage,
    files: Mapping[str, bytes] = FILES,
    result: Result = RESULT,
) -> None:
    """Lease the job, store its files and their manifest, and make it succeed."""
    lease = job_store.lease(record.tenant, record.id, record.attempt + 1, "the test")
    prefix = attempt_prefix(record.tenant, record.id, lease.attempt)
    for name, content in files.items():
        storage.put_bytes(content, prefix + name)
    stored = [
        StoredFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    ]
    manifest = Manifest(job_id=record.id, attempt=lease.attempt, files=stored)
    storage.put_if_absent(manifest.model_dump_json().encode(), manifest_key(record.tenant, record.id))
    job_store.succeed(lease, result)


def fail(record: JobRecord, job_store: JobStore, code: str, message: str) -> None:
    """Lease the job and make it fail."""
    lease = job_store.lease(record.tenant, record.id, record.attempt + 1, "the test")
    job_store.fail(lease, JobError(code=code, message=message))
