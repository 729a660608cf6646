"""Jobs in shards with a real Redis and real workers: lost, stopped and cancelled shards."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import psutil
import pytest

from service.contract.answers.job import JobStatus
from service.infrastructure.redis_client import connect
from service.jobs.reconciler import reconciling
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import rq_job_id, rq_job_ids
from service.settings import Settings
from service.storage.keys import attempt_prefix, job_prefix
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage
from tests.support.jobs import checkpoint, job_store_of, request, submit, worker
from tests.support.processes import find_attempt, wait_for_attempt
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.slow
ROWS = 2500  # a shard then takes some seconds
LONG_SECONDS = 3 * DEADLINE_SECONDS  # of a job whose three processes start one after the other


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(settings: Settings, model: Path) -> JobRecord:
    """A job of two shards in the queue."""
    return submit(settings, request(model, ROWS, method={"shards": 2}))


def look(settings: Settings, job: JobRecord) -> JobRecord:
    return job_store_of(settings).get(job.tenant, job.id)


def are_counting(settings: Settings, job: JobRecord, *shards: int) -> Callable[[], bool]:
    """A function that says whether these shards add up their rows."""

    def check() -> bool:
        now = look(settings, job)
        assert not now.status.is_terminal, now.error
        found = [now.shard_progress[shard] for shard in shards if shard in now.shard_progress]
        assert not any(each.done for each in found), "the shard is too short for this test"
        return len(found) == len(shards) and all(each.fraction > 0.25 for each in found)

    return check


def has_ended(settings: Settings, job: JobRecord) -> Callable[[], bool]:
    return lambda: look(settings, job).status.is_terminal


def worker_of(settings: Settings, workers: Sequence[psutil.Process], job: JobRecord, shard: int) -> psutil.Process:
    """The worker that runs a shard, as RQ knows."""
    redis = connect(settings.redis_url)
    name = cast(str, redis.hget(f"rq:job:{rq_job_id(job.id, 1, shard)}", "worker_name"))
    pid = int(cast(str, redis.hget(f"rq:worker:{name}", "pid")))
    [found] = [worker for worker in workers if worker.pid == pid]
    return found


def starts(settings: Settings) -> Counter[int | None]:
    """How often each shard was started, and under None the last job, by the log of the workers."""
    lines = [json.loads(line) for line in (settings.state / "worker.log").read_text().splitlines()]
    stages = [line for line in lines if line["event"] == "stage" and line["stage"] == "fetch"]
    return Counter(line.get("shard") for line in stages)


def check_succeeded(settings: Settings, storage: Storage, job: JobRecord) -> None:
    """The job succeeded in its first attempt, and neither RQ nor the object store has anything of the shards."""
    ended = look(settings, job)
    assert (ended.status, ended.attempt, ended.lost, ended.error) == (JobStatus.succeeded, 1, 0, None)
    assert ended.shards is not None
    assert (ended.shards.done, ended.shards.of) == (2, 2)
    manifest = committed_manifest(storage, job.tenant, job.id)
    assert manifest is not None
    keys = {key for key, _ in storage.list(job_prefix(job.tenant, job.id))}
    prefix = attempt_prefix(job.tenant, job.id, 1)
    assert keys == {prefix + file.name for file in manifest.files} | {f"{job_prefix(job.tenant, job.id)}manifest.json"}
    assert connect(settings.redis_url).zcard("rq:deferred:slim") == 0


def test_killed_process_of_a_shard_is_repeated_alone(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with reconciling(settings), ExitStack() as stack:
        workers = [stack.enter_context(worker(settings)) for _ in range(2)]
        wait_until(are_counting(settings, job, 0, 1), LONG_SECONDS)
        wait_for_attempt(worker_of(settings, workers, job, 1)).send_signal(signal.SIGKILL)
        wait_until(has_ended(settings, job), LONG_SECONDS)
    check_succeeded(settings, storage, job)
    assert starts(settings) == {0: 1, 1: 2, None: 1}


def test_shard_of_a_killed_worker_is_repeated_alone(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with reconciling(settings), worker(settings) as first, worker(settings) as second:
        wait_until(are_counting(settings, job, 0, 1), LONG_SECONDS)
        [shard] = [shard for shard in (0, 1) if worker_of(settings, (first, second), job, shard) == first]
        first.kill()
        wait_until(has_ended(settings, job), LONG_SECONDS)
        assert second.is_running()
    check_succeeded(settings, storage, job)
    assert starts(settings)[shard] == 2
    assert starts(settings).total() == 4


def test_stopped_worker_hands_its_shard_to_the_other_one(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with reconciling(settings), worker(settings) as first, worker(settings):
        wait_until(are_counting(settings, job, 0, 1), LONG_SECONDS)
        first.send_signal(signal.SIGTERM)
        first.wait(DEADLINE_SECONDS)
        wait_until(has_ended(settings, job), LONG_SECONDS)
    check_succeeded(settings, storage, job)
    assert starts(settings).total() == 4


def test_one_worker_runs_all_shards_and_the_last_job(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with worker(settings, "--burst"):
        wait_until(has_ended(settings, job), LONG_SECONDS)
    check_succeeded(settings, storage, job)
    assert starts(settings) == {0: 1, 1: 1, None: 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_job_is_cancelled_while_shards_run(settings: Settings, storage: Storage, job: JobRecord, workers: int) -> None:
    with reconciling(settings), ExitStack() as stack:
        running = [stack.enter_context(worker(settings)) for _ in range(workers)]
        wait_until(are_counting(settings, job, *range(workers)), LONG_SECONDS)
        assert job_store_of(settings).cancel(job.tenant, job.id).status is JobStatus.cancelling
        wait_until(has_ended(settings, job), LONG_SECONDS)
        wait_until(lambda: not any(map(find_attempt, running)))
        # the deletion of a shard that stored a file meanwhile
        wait_until(lambda: storage.list(job_prefix(job.tenant, job.id)) == [])
    ended = look(settings, job)
    assert (ended.status, ended.result, ended.attempt) == (JobStatus.cancelled, None, 1)
    redis = connect(settings.redis_url)
    assert redis.llen("rq:queue:slim") == redis.zcard("rq:deferred:slim") == 0
    assert not redis.exists(f"rq:job:{rq_job_ids(job, 1)[-1]}")
    assert starts(settings).total() == workers


def test_job_in_shards_fails_at_its_deadline(settings: Settings, storage: Storage, model: Path) -> None:
    job = submit(settings, request(model, 4 * ROWS, deadline_seconds=10, method={"shards": 2}))
    with reconciling(settings), worker(settings):
        wait_until(has_ended(settings, job), LONG_SECONDS)
    ended = look(settings, job)
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (JobStatus.failed, "deadline_exceeded")
    assert storage.list(job_prefix(job.tenant, job.id)) == []
