"""The reasons for which an attempt ends without a result, and what each of them writes to the job's record."""

import structlog
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from redis import Redis

from service.contract.answers.job import JobError, JobStatus
from service.contract.errors import ScratchFull, StorageUnavailable, TargetUnreachable, TaskslimError
from service.infrastructure.redis_client import WORKER_RETRIES, connect
from service.jobs.leases import Lease, LeaseLost
from service.jobs.queue import JobQueue
from service.jobs.store import JobStore
from service.settings import Settings
from worker.attempts.files import AttemptFiles

log = structlog.get_logger()

OUTAGE_SECONDS = 600  # from the first start of a job, for which it is retried while a resource is missing
ACCESS_DENIED = (PermissionDeniedError, UnauthenticatedError)  # errors of storage that waiting does not end


class Cancelled(Exception):
    """The client has cancelled the job."""


class HandedBack(Exception):
    """The worker was told to stop, and another worker is to run the job."""


Ending = Cancelled | HandedBack | LeaseLost | TaskslimError


class EndingWriter:
    """Writes how an attempt without a result ended to the job's record, and deletes the files that it leaves."""

    def __init__(self, settings: Settings, job_store: JobStore, lease: Lease, files: AttemptFiles) -> None:
        self._settings, self._job_store, self._lease, self._files = settings, job_store, lease, files
        self.is_handed_back = False

    def write(self, ending: Ending) -> bool:
        """Write an ending. Returns whether the job was handed back to be retried, because a resource is missing."""
        try:
            if isinstance(ending, LeaseLost):
                raise ending
            is_retried = self._can_be_retried(ending)
            status = self._hand_back_to_retry(ending) if is_retried else self._end(ending)
        except LeaseLost as lost:
            log.warning("lease lost", reason=str(lost))
            self._files.delete_own()
            return False
        log.info("attempt over", status=status, reason=type(ending).__name__)
        if status is not JobStatus.queued:
            self._files.delete_leftovers(status)
            self._remove_waiting_shards()
        return is_retried

    def _can_be_retried(self, ending: Ending) -> bool:
        """Whether the next attempt may find what this one lacked: room on the disk, or storage that responds."""
        if not isinstance(ending, ScratchFull | StorageUnavailable) or isinstance(ending.__cause__, ACCESS_DENIED):
            return False
        return self._job_store.seconds_since_start(self._lease.job) < OUTAGE_SECONDS

    def _hand_back_to_retry(self, ending: Ending) -> JobStatus:
        """Hand the job back and log the reason among its events. The next attempt deletes the files."""
        self._job_store.log(self._lease, f"The job is handed back and tried again: {ending}")
        return self._hand_back()

    def _end(self, ending: Cancelled | HandedBack | TaskslimError) -> JobStatus:
        # Before the record changes: if this process dies in between, the next attempt or the reconciler goes on.
        self._files.delete_leftovers(JobStatus.running)
        match ending:
            case Cancelled():
                return self._job_store.confirm_cancelled(self._lease)
            case HandedBack():
                return self._hand_back()
            case TaskslimError():
                curve = ending.curve if isinstance(ending, TargetUnreachable) else []
                error = JobError(code=ending.code, message=ending.message, param=ending.param, curve=curve)
                return self._job_store.fail(self._lease, error)

    def _hand_back(self) -> JobStatus:
        self.is_handed_back = True
        status = self._job_store.hand_back(self._lease)
        if status is JobStatus.queued:
            JobQueue(self._rq_redis).enqueue(self._job_store.get(self._lease.job.tenant, self._lease.job.id))
        return status

    def _remove_waiting_shards(self) -> None:
        if self._lease.job.request.method.shards > 1:
            JobQueue(self._rq_redis).remove_waiting(self._lease.job)

    @property
    def _rq_redis(self) -> Redis:
        return connect(self._settings.redis_url, retries=WORKER_RETRIES, decode=False)


class ShardEndingWriter(EndingWriter):
    """As `EndingWriter`, for one shard: an error or a cancellation ends the job, and a shard alone is handed back."""

    def write(self, ending: Ending) -> bool:
        """Write an ending. Where the job has ended already, what this shard has stored meanwhile is deleted."""
        is_retried = super().write(ending)
        if isinstance(ending, LeaseLost):
            self._files.delete_shard_of_ended_job(self._job_store)
        return is_retried

    def _end(self, ending: Cancelled | HandedBack | TaskslimError) -> JobStatus:
        record = self._job_store.get(self._lease.job.tenant, self._lease.job.id)
        if self._lease.shard not in record.open_shards:
            raise LeaseLost(f"shard {self._lease.shard} was presumed dead and has been repeated")
        # The files of the attempt stay: they may be those of its last job, where this shard was presumed dead.
        return self._hand_back() if isinstance(ending, HandedBack) else super()._end(ending)

    def _hand_back(self) -> JobStatus:
        self.is_handed_back = True
        return JobStatus.queued
