"""run_job: the only function that RQ may call, in a process of its own for each attempt."""

import time

import structlog
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from redis import RedisError
from rq.timeouts import JobTimeoutException
from ulid import ULID

from service.contract.errors import DeadlineExceeded, ScratchFull, StorageUnavailable, TargetUnreachable, TaskslimError
from service.contract.job import JobError, JobStatus, Progress, Stage
from service.contract.result import Result
from service.infrastructure import tracing
from service.infrastructure.redis_client import WORKER_PATIENCE, connect
from service.jobs.queue import JobQueue
from service.jobs.store import JobStore, Lease, LeaseLost
from service.jobs.usage import record_usage
from service.settings import Settings
from service.storage.keys import attempt_prefix, job_prefix
from service.storage.manifests import committed_manifest, committed_result, delete_attempts
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from worker import pipeline
from worker.attempts.lease_keeper import Attempt, Cancelled, Ending, HandedBack, on_sigterm
from worker.attempts.progress import JobProgress, skipped_stages
from worker.attempts.scratch import scratch_directory

log = structlog.get_logger()

PULSE_PATIENCE = 1  # retries of a heartbeat; the next one comes soon
OUTAGE_SECONDS = 600  # since a job's first start: so long it is put off for what this deployment lacks for the moment
PAUSE_SECONDS = 15.0  # in which the worker that lacked it takes no other job
REFUSED = (PermissionDeniedError, UnauthenticatedError)  # no outage: waiting would change nothing


def run_job(tenant: str, job_id: str, attempt: int) -> None:
    """Runs one attempt of a job and writes how it ended into the record.

    Returns without a trace where the attempt may not start: a repeated or outdated entry of the queue.
    """
    settings = Settings()
    job_store = JobStore(connect(settings.redis_url, patience=WORKER_PATIENCE), lease_seconds=settings.lease_seconds)
    structlog.contextvars.bind_contextvars(tenant=tenant, job_id=job_id, attempt=attempt)
    try:
        lease = job_store.lease(tenant, job_id, attempt, worker=str(ULID()))
    except LeaseLost as refused:
        log.info("attempt not started", reason=str(refused))
        return
    structlog.contextvars.bind_contextvars(request_id=lease.job.request_id)
    with tracing.attempt_span(job_id, attempt, lease.job.trace):
        JobRun(settings, job_store, lease).run()
    tracing.flush()


class JobRun:
    """One attempt that holds its lease."""

    def __init__(self, settings: Settings, job_store: JobStore, lease: Lease) -> None:
        self._settings, self._job_store, self._lease = settings, job_store, lease
        pulse = JobStore(connect(settings.redis_url, patience=PULSE_PATIENCE), lease_seconds=settings.lease_seconds)
        self._attempt = Attempt(pulse, lease, settings, self._settle)
        self._pause_seconds = 0.0

    def run(self) -> None:
        """Runs the pipeline and settles the attempt. A bug is logged and fails the job; it goes no further, because
        RQ would put its traceback, secrets and all, in Redis."""
        with on_sigterm(lambda: self._attempt.end(HandedBack("the worker was told to stop"))):
            try:
                with self._attempt.watched():
                    result = self._result()
                    self._clean(JobStatus.running)  # before the end: after it nobody would come back for it
                self._succeed(result)
            except (Cancelled, HandedBack, LeaseLost, TaskslimError) as ending:
                self._settle(ending)
            except JobTimeoutException:
                log.exception("the job was stuck beyond its deadline")
                self._settle(DeadlineExceeded("the job was stuck when its time was over", param="deadline_seconds"))
            except Exception:
                log.exception("the job met a bug")
                self._settle(TaskslimError("the job failed because of a bug; the worker's log has the details"))
        time.sleep(self._pause_seconds)

    @property
    def _storage(self) -> Storage:
        return Storage(self._settings.artifacts_url)

    def _result(self) -> Result:
        """The pipeline's result, or that of an earlier attempt that committed it and died before it could say so."""
        job, storage = self._lease.job, self._storage
        earlier = committed_result(storage, job.tenant, job.id) if self._lease.attempt > 1 else None
        if earlier is not None:
            return earlier
        skipped = skipped_stages(self._lease.job.request)
        progress = JobProgress(self._write_progress, self._attempt.check, skipped=skipped)
        try:
            with scratch_directory() as scratch:
                return pipeline.run(
                    job,
                    settings=self._settings,
                    storage=storage,
                    progress=progress,
                    scratch=scratch,
                    scores=ScoreSets(self._job_store.redis, storage),
                )
        except LeaseLost:  # perhaps because an earlier attempt, thought dead, has committed its result meanwhile
            late = committed_result(storage, job.tenant, job.id)
            if late is None:
                raise
            return late

    def _write_progress(self, stage: Stage, progress: Progress, entered: bool) -> None:
        self._attempt.stage = stage
        if entered:
            log.info("stage", stage=stage.value)
            status = self._job_store.set_stage(self._lease, stage, progress)
        else:
            status = self._job_store.progress(self._lease, progress)
        self._attempt.note_status(status)

    def _succeed(self, result: Result) -> None:
        status = self._job_store.succeed(self._lease, result)
        log.info("attempt over", status=status)
        if status is JobStatus.succeeded:
            self._account()
        else:
            self._clean(status)

    def _account(self) -> None:
        job = self._lease.job
        try:
            record_usage(self._job_store.redis, self._storage, job.tenant, job.id)
        except (StorageUnavailable, RedisError):
            log.exception("the job's figures were not counted")

    def _settle(self, ending: Ending) -> None:
        """Writes how an attempt ended that has no result, its files deleted first; those of an attempt that is put
        off are left to the next one."""
        try:
            if isinstance(ending, LeaseLost):
                raise ending
            if self._can_wait(ending):
                status = self._defer(ending)
            else:
                self._clean(JobStatus.running)
                status = self._write_ending(ending)
        except LeaseLost as lost:
            log.warning("lease lost", reason=str(lost))
            self._discard()
            return
        log.info("attempt over", status=status, reason=type(ending).__name__)
        if status is not JobStatus.queued:
            self._clean(status)

    def _can_wait(self, ending: Ending) -> bool:
        """Whether the attempt met what may be over by the next one: a full disk, or a store that does not answer."""
        if not isinstance(ending, ScratchFull | StorageUnavailable) or isinstance(ending.__cause__, REFUSED):
            return False
        return self._job_store.seconds_since_start(self._lease.job) < OUTAGE_SECONDS

    def _defer(self, ending: Ending) -> JobStatus:
        """Hands the job back, with the reason among its events."""
        self._job_store.log(self._lease, f"put off: {ending}")
        self._pause_seconds = PAUSE_SECONDS
        return self._hand_back()

    def _discard(self) -> None:
        """Deletes what this attempt alone has stored, unless it is the job's result."""
        job, attempt = self._lease.job, self._lease.attempt
        try:
            manifest = committed_manifest(self._storage, job.tenant, job.id)
            if manifest is None or manifest.attempt != attempt:
                self._storage.delete_prefix(attempt_prefix(job.tenant, job.id, attempt))
        except StorageUnavailable:
            log.exception("files of the attempt were left behind")

    def _write_ending(self, ending: Cancelled | HandedBack | TaskslimError) -> JobStatus:
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
        status = self._job_store.hand_back(self._lease)
        if status is JobStatus.queued:
            redis = connect(self._settings.redis_url, patience=WORKER_PATIENCE, decode=False)
            JobQueue(redis).enqueue(self._job_store.get(self._lease.job.tenant, self._lease.job.id))
        return status

    def _clean(self, status: JobStatus) -> None:
        """Deletes what the attempts up to this one have left, save a committed result; all of a job without one.

        Earlier attempts are over: the fencing token keeps them from coming back. A later one may be running.
        """
        job = self._lease.job
        try:
            if status in (JobStatus.failed, JobStatus.cancelled):
                self._storage.delete_prefix(job_prefix(job.tenant, job.id))
            else:
                delete_attempts(self._storage, job.tenant, job.id, self._lease.attempt)
        except StorageUnavailable:
            log.exception("files of the attempt were left behind")
