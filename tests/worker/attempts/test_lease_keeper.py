"""The keeper of a lease: which of its two threads ends the attempt."""

import threading

import pytest
from redis import Redis

from service.contract.answers.job import JobStatus
from service.jobs.leases import Lease
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.settings import Settings
from tests.support.contract_examples import REQUEST
from worker.attempts.endings import EndingWriter
from worker.attempts.files import AttemptFiles
from worker.attempts.lease_keeper import LeaseKeeper


class SlowStore(JobStore):
    """A store whose heartbeat begins during the block and ends after it, for a job that was cancelled."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.begun, self.end = threading.Event(), threading.Event()

    def heartbeat(self, lease: Lease) -> JobStatus:
        self.begun.set()
        self.end.wait()
        return JobStatus.cancelling


def test_heartbeat_that_ends_after_the_block_does_not_end_the_attempt(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr("worker.attempts.lease_keeper.os._exit", exits.append)
    job_store = SlowStore(redis)
    job = job_store.accept(new_record(REQUEST))
    lease = job_store.lease(job.tenant, job.id, 1, "w")
    impatient = settings.model_copy(update={"heartbeat_seconds": 0.01, "cancel_grace_seconds": -1})
    endings = EndingWriter(settings, job_store, lease, AttemptFiles(settings.artifacts_url, lease))

    def run() -> None:
        with LeaseKeeper(job_store, lease, impatient, endings).heartbeats():
            job_store.begun.wait()
            threading.Timer(0.5, job_store.end.set).start()  # while the context manager waits for the heartbeat

    # A daemon: it waits for ever where the heartbeat ends the attempt.
    attempt = threading.Thread(target=run, daemon=True)
    attempt.start()
    attempt.join(60)
    assert not attempt.is_alive()
    assert exits == []
    assert job_store.get(job.tenant, job.id).status is JobStatus.running
