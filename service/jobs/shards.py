"""What RQ knows of the shards of a started job.

Each shard is an RQ job, which RQ itself repeats where its process or its worker has died. The last job of the attempt
depends on all of them, so that RQ enqueues it when they have finished.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from service.jobs.record import JobRecord
from service.jobs.rq_jobs import rq_job_id, rq_job_ids


class ShardsState(StrEnum):
    """What has become of the shards of a started job, or of its last job after them."""

    running = "running"  # one is in a worker, and the others are there or in the queue
    waiting = "waiting"  # all of them are in the queue
    lost = "lost"  # RQ does not know one of them
    failed = "failed"  # RQ has repeated one of them in vain


@dataclass(frozen=True)
class KnownToRq:
    """The RQ jobs that are in the queue, with a live worker, and given up."""

    waiting: Collection[str]
    started: Collection[str]
    failed: Collection[str]

    def state_of(self, record: JobRecord) -> ShardsState:
        """The state of a job in shards, whose record must have been read later than this."""
        needed = [rq_job_id(record.id, record.attempt, shard) for shard in record.open_shards]
        is_running = any(each in self.started for each in rq_job_ids(record, record.attempt))
        if not needed and not is_running:
            needed = [rq_job_id(record.id, record.attempt)]
        missing = [each for each in needed if each not in self.started and each not in self.waiting]
        if missing:
            return ShardsState.failed if any(each in self.failed for each in missing) else ShardsState.lost
        return ShardsState.running if is_running or not record.is_in_shards else ShardsState.waiting
