"""RQ's queue: one RQ job for each attempt."""

import json

import pytest
from redis import Redis
from rq.callbacks import Callback
from rq.executions import Execution

from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, new_record
from service.jobs.rq_jobs import QUEUE, RqJob, rq_job_id
from service.jobs.store import JobStore
from tests.support.contract_examples import REQUEST


@pytest.fixture
def job(redis: Redis) -> JobRecord:
    return JobStore(redis).accept(new_record(REQUEST))


def test_attempt_is_enqueued_once(queue: JobQueue, job: JobRecord) -> None:
    assert not queue.contains(job)
    queue.enqueue(job)
    queue.enqueue(job)
    assert queue.depth() == 1
    assert queue.contains(job)


def test_rq_job_has_the_attempt_and_nothing_else(queue: JobQueue, job: JobRecord) -> None:
    queue.enqueue(job)
    rq_job = RqJob.fetch(rq_job_id(job.id, 1), connection=queue.redis, serializer="json")
    assert json.loads(rq_job.data) == [
        "worker.tasks.run_job",
        None,
        [],
        {"tenant": job.tenant, "job_id": job.id, "attempt": 1},
    ]
    assert rq_job.description == rq_job.id
    assert rq_job.timeout is not None
    assert rq_job.timeout > job.request.deadline_seconds


def test_removed_attempt_can_be_enqueued_again(queue: JobQueue, job: JobRecord) -> None:
    queue.remove(job)
    queue.enqueue(job)
    queue.remove(job)
    assert queue.depth() == 0
    assert not queue.contains(job)
    queue.enqueue(job)
    assert queue.depth() == 1


def test_attempt_with_an_expired_execution_can_be_removed(queue: JobQueue, job: JobRecord) -> None:
    queue.enqueue(job)
    rq_job = RqJob.fetch(rq_job_id(job.id, 1), connection=queue.redis, serializer="json")
    with queue.redis.pipeline() as pipe:
        execution = Execution.create(rq_job, ttl=60, pipeline=pipe)
        pipe.execute()
    queue.redis.delete(execution.key)
    queue.remove(job)
    assert queue.depth() == 0
    assert not queue.redis.exists(rq_job.key)


def test_kill_of_an_attempt_that_does_not_run_has_no_effect(queue: JobQueue, job: JobRecord) -> None:
    queue.kill(job)
    queue.enqueue(job)
    queue.kill(job.model_copy(update={"attempt": 1}))
    assert queue.depth() == 1


@pytest.mark.parametrize("name", ["os.system", "worker.attempts.lifecycle.AttemptLifecycle", "builtins.exec", ""])
def test_rq_job_runs_no_other_function_and_no_callback(redis: Redis, name: str) -> None:
    rq_job = RqJob.create("x.y", connection=redis, serializer="json", origin=QUEUE, on_success=Callback("os.getcwd"))
    rq_job.data = json.dumps([name, None, [], {}]).encode()
    with pytest.raises(PermissionError):
        _ = rq_job.func
    rq_job.data = json.dumps(["run_job", "worker.tasks", [], {}]).encode()
    with pytest.raises(PermissionError):
        _ = rq_job.func
    assert (rq_job.success_callback, rq_job.failure_callback, rq_job.stopped_callback) == (None, None, None)
