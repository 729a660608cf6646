"""The files of a job's attempts in storage: which of them are the result, and which are deleted."""

import structlog

from service.contract.answers.job import JobStatus
from service.contract.answers.result import Result
from service.contract.errors import StorageUnavailable
from service.jobs.leases import Lease
from service.jobs.store import JobStore
from service.storage.keys import attempt_prefix, shard_prefix
from service.storage.manifests import committed_manifest, committed_result, delete_attempts, delete_job_files
from service.storage.object_store import Storage

log = structlog.get_logger()


class AttemptFiles:
    """The stored files of the leased attempt and of the attempts before it.

    Deleting never raises StorageUnavailable: files that remain are logged, and the job's expiry deletes them later.
    """

    def __init__(self, artifacts_url: str, lease: Lease) -> None:
        self._artifacts_url, self._lease = artifacts_url, lease

    @property
    def storage(self) -> Storage:
        """The object store of the artifacts."""
        return Storage(self._artifacts_url)

    def committed_result(self) -> Result | None:
        """The result of the attempt whose manifest is stored; None where there is no manifest."""
        job = self._lease.job
        return committed_result(self.storage, job.tenant, job.id)

    def delete_leftovers(self, status: JobStatus) -> None:
        """Delete the files of all attempts up to this one, except a committed result; all files of a job that failed
        or was cancelled.

        Earlier attempts are over, since the fencing token rejects their writes. A later attempt may be running.
        """
        job = self._lease.job
        if status in (JobStatus.failed, JobStatus.cancelled):
            delete_job_files(self.storage, job.tenant, job.id)
            return
        try:
            delete_attempts(self.storage, job.tenant, job.id, self._lease.attempt)
        except StorageUnavailable:
            log.exception("files of the attempt were not deleted")

    def delete_shard_of_ended_job(self, job_store: JobStore) -> None:
        """Delete what this shard has measured, if the job has ended or is deleted."""
        job, shard = self._lease.job, self._lease.shard
        assert shard is not None, "the lease is that of a shard"
        try:
            if not job_store.exists(job.tenant, job.id) or job_store.get(job.tenant, job.id).status.is_terminal:
                self.storage.delete_prefix(shard_prefix(job.tenant, job.id, shard))
        except StorageUnavailable:
            log.exception("files of the shard were not deleted")

    def delete_own(self) -> None:
        """Delete the files of this attempt, unless they are the job's result."""
        job, attempt = self._lease.job, self._lease.attempt
        try:
            manifest = committed_manifest(self.storage, job.tenant, job.id)
            if manifest is None or manifest.attempt != attempt:
                self.storage.delete_prefix(attempt_prefix(job.tenant, job.id, attempt))
        except StorageUnavailable:
            log.exception("files of the attempt were not deleted")
