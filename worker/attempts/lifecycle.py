"""The lifecycle of one attempt: it runs the pipeline under its lease and ends in exactly one way.

The lifecycle owns the keeper of the lease and the writer of endings; neither of them knows the lifecycle.
"""

import time

import structlog
from rq.timeouts import JobTimeoutException

from service.contract.answers.job import JobStatus, Progress, Stage
from service.contract.answers.result import Result
from service.contract.errors import TaskslimError
from service.infrastructure.redis_client import connect
from service.jobs.leases import Lease, LeaseLost, deadline_exceeded
from service.jobs.store import JobStore
from service.jobs.usage import record_usage
from service.settings import Settings
from service.storage.score_sets import ScoreSets
from worker import pipeline
from worker.attempts.endings import Cancelled, EndingWriter, HandedBack
from worker.attempts.files import AttemptFiles
from worker.attempts.lease_keeper import LeaseKeeper
from worker.attempts.progress import JobProgress, measured_fraction, skipped_stages
from worker.attempts.scratch import scratch_directory
from worker.attempts.signals import on_sigterm

log = structlog.get_logger()

HEARTBEAT_PATIENCE = 1  # retries of a heartbeat; the next heartbeat is sent soon
RETRY_PAUSE_SECONDS = 15.0  # for which a worker takes no other job after it has handed one back to be retried


class AttemptLifecycle:
    """One attempt that holds its lease."""

    WRITER = EndingWriter

    def __init__(self, settings: Settings, job_store: JobStore, lease: Lease) -> None:
        self._settings, self._job_store, self._lease = settings, job_store, lease
        self._files = AttemptFiles(settings.artifacts_url, lease)
        self._endings = self.WRITER(settings, job_store, lease, self._files)
        redis = connect(settings.redis_url, retries=HEARTBEAT_PATIENCE)
        heartbeat_store = JobStore(redis, lease_seconds=settings.lease_seconds)
        self._keeper = LeaseKeeper(heartbeat_store, lease, settings, self._endings)

    def run(self) -> bool:
        """Run the pipeline and write the outcome of the attempt. SIGTERM hands the job back.

        Whether it was handed back, then or because a resource was missing.
        """
        with on_sigterm(lambda: self._keeper.request_end(HandedBack("the worker was told to stop"))):
            is_retried = self._run_to_an_end()
        if is_retried:
            time.sleep(RETRY_PAUSE_SECONDS)
        return self._endings.is_handed_back

    def _run_to_an_end(self) -> bool:
        """Whether the job was handed back to be retried.

        A bug is logged and fails the job. It is not raised, because RQ would store its traceback, which may contain
        secrets, in Redis.
        """
        try:
            self._complete()
        except (Cancelled, HandedBack, LeaseLost, TaskslimError) as ending:
            return self._endings.write(ending)
        except JobTimeoutException:
            log.exception("the job did not stop at its deadline")
            seconds = self._lease.job.request.deadline_seconds
            return self._endings.write(deadline_exceeded(seconds, " and did not stop"))
        except Exception:
            log.exception("the job failed because of a bug")
            message = "the job failed because of a bug; the worker's log has the details"
            return self._endings.write(TaskslimError(message))
        return False

    def _complete(self) -> None:
        """Run to the end of the attempt where nothing goes wrong."""
        with self._keeper.heartbeats():
            result = self._result()
            self._files.delete_leftovers(JobStatus.running)  # before the job ends: later no process would do it
        self._succeed(result)

    def _result(self) -> Result:
        """The result of the pipeline, or of an earlier attempt that stored its manifest and died before it ended."""
        earlier = self._files.committed_result() if self._lease.attempt > 1 else None
        if earlier is not None:
            return earlier
        try:
            return self._run_pipeline()
        except LeaseLost:  # an earlier attempt that was presumed dead may have stored its manifest in the meantime
            late = self._files.committed_result()
            if late is None:
                raise
            return late

    def _run_pipeline(self) -> Result:
        job, storage = self._lease.job, self._files.storage
        skipped = skipped_stages(job.request)
        begin = measured_fraction(job.request) if job.request.method.shards > 1 else 0.0  # what shards have done
        progress = JobProgress(self._write_progress, self._keeper.check, skipped=skipped, begin=begin)
        scores = ScoreSets(self._job_store.redis, storage)
        with scratch_directory() as scratch:
            return pipeline.run(
                job, settings=self._settings, storage=storage, progress=progress, scratch=scratch, scores=scores
            )

    def _write_progress(self, stage: Stage, progress: Progress, entered: bool) -> None:
        self._keeper.stage = stage
        if entered:
            log.info("stage", stage=stage.value)
            status = self._job_store.set_stage(self._lease, stage, progress)
        else:
            status = self._job_store.progress(self._lease, progress)
        self._keeper.note_status(status)

    def _succeed(self, result: Result) -> None:
        status = self._job_store.succeed(self._lease, result)
        log.info("attempt over", status=status)
        if status is JobStatus.succeeded:
            record_usage(self._job_store.redis, self._files.storage, self._lease.job.tenant, self._lease.job.id)
        else:
            self._files.delete_leftovers(status)
