"""The lifecycle of one shard of an attempt: it measures its part of the rows under the lease of the attempt."""

import structlog

from service.contract.answers.job import Progress, Stage
from service.jobs.record import ShardProgress
from service.storage.score_sets import ScoreSets
from worker import pipeline
from worker.attempts.endings import ShardEndingWriter
from worker.attempts.lifecycle import AttemptLifecycle
from worker.attempts.progress import JobProgress, measured_fraction, skipped_stages
from worker.attempts.scratch import scratch_directory

log = structlog.get_logger()


class ShardLifecycle(AttemptLifecycle):
    """One shard of an attempt. It ends the job only with an error, or where the job is cancelled."""

    WRITER = ShardEndingWriter

    def _complete(self) -> None:
        with self._keeper.heartbeats():
            self._measure()
        done = ShardProgress(fraction=measured_fraction(self._lease.job.request), done=True)
        self._job_store.shard_progress(self._lease, done)
        log.info("shard over", shard=self._lease.shard)

    def _measure(self) -> None:
        job, shard, storage = self._lease.job, self._lease.shard, self._files.storage
        assert shard is not None, "the lease is that of a shard"
        progress = JobProgress(self._write_progress, self._keeper.check, skipped=skipped_stages(job.request))
        scores = ScoreSets(self._job_store.redis, storage)
        with scratch_directory() as scratch:
            pipeline.run_shard(
                job, shard, settings=self._settings, storage=storage, progress=progress, scratch=scratch, scores=scores
            )

    def _write_progress(self, stage: Stage, progress: Progress, entered: bool) -> None:
        self._keeper.stage = stage
        if entered:
            log.info("stage", stage=stage.value, shard=self._lease.shard)
            self._job_store.shard_stage(self._lease, stage)
        status = self._job_store.shard_progress(self._lease, ShardProgress(fraction=progress.fraction))
        self._keeper.note_status(status)
