"""Faults of real processes while a job runs: killed workers, a restarted Redis, deadlines, forged RQ jobs."""

import json
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from service.contract.answers.job import JobStatus, Stage
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.reconciler import reconciling
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import SERIALIZER, RqJob
from service.settings import Settings
from service.storage.keys import attempt_prefix, job_prefix
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage
from tests.support.foreign_rq_jobs import FOREIGN, put_foreign_rq_job
from tests.support.jobs import checkpoint, job_store_of, request, submit, worker
from tests.support.processes import find_attempt, wait_for_attempt
from tests.support.processes import has_ended as process_has_ended
from tests.support.waiting import DEADLINE_SECONDS, wait_until

ROWS = 2500  # `attribute` then takes some seconds


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(settings: Settings, model: Path) -> JobRecord:
    """A long job in the queue."""
    return submit(settings, request(model, ROWS))


def is_attributing(settings: Settings, job: JobRecord) -> Callable[[], bool]:
    """A function that says whether the job is in the stage `attribute` and has begun to count."""

    def check() -> bool:
        now = job_store_of(settings).get(job.tenant, job.id)
        assert not now.status.is_terminal, now.error
        return now.stage is Stage.attribute and (now.progress.done or 0) > 0

    return check


def has_ended(settings: Settings, job: JobRecord) -> Callable[[], bool]:
    return lambda: job_store_of(settings).get(job.tenant, job.id).status.is_terminal


def check_succeeded_once(settings: Settings, storage: Storage, job: JobRecord, attempt: int) -> None:
    """The job succeeded in `attempt`, whose files are the only ones."""
    ended = job_store_of(settings).get(job.tenant, job.id)
    assert (ended.status, ended.attempt, ended.error) == (JobStatus.succeeded, attempt, None)
    assert ended.result is not None
    manifest = committed_manifest(storage, job.tenant, job.id)
    assert manifest is not None
    assert manifest.attempt == attempt
    keys = {key for key, _ in storage.list(job_prefix(job.tenant, job.id))}
    prefix = attempt_prefix(job.tenant, job.id, attempt)
    assert keys == {prefix + file.name for file in manifest.files} | {f"{job_prefix(job.tenant, job.id)}manifest.json"}


def test_job_of_a_killed_worker_succeeds_on_its_second_attempt(
    settings: Settings, storage: Storage, job: JobRecord
) -> None:
    with reconciling(settings), worker(settings) as first:
        wait_until(is_attributing(settings, job))
        check_attempt_dies_with_its_worker(settings, first)
        with worker(settings):
            wait_until(has_ended(settings, job))
    check_succeeded_once(settings, storage, job, attempt=2)


def check_attempt_dies_with_its_worker(settings: Settings, parent: psutil.Process) -> None:
    """Kill a worker: its attempt process, whose command line shows no password, ends with it."""
    child = wait_for_attempt(parent)
    assert child.environ()["SLIM_REDIS_URL"] == settings.redis_url
    assert settings.redis_url.removeprefix("unix://") not in " ".join(child.cmdline() + parent.cmdline())
    parent.kill()
    wait_until(lambda: process_has_ended(child))


@pytest.mark.slow
def test_job_of_a_killed_attempt_process_goes_on_in_the_same_worker(
    settings: Settings, storage: Storage, job: JobRecord
) -> None:
    with reconciling(settings), worker(settings) as parent:
        wait_until(is_attributing(settings, job))
        wait_for_attempt(parent).kill()
        wait_until(has_ended(settings, job))
    check_succeeded_once(settings, storage, job, attempt=2)


def test_running_job_is_cancelled(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with worker(settings) as parent:
        wait_until(is_attributing(settings, job))
        assert job_store_of(settings).cancel(job.tenant, job.id).status is JobStatus.cancelling
        wait_until(has_ended(settings, job))
        wait_until(lambda: find_attempt(parent) is None)
    ended = job_store_of(settings).get(job.tenant, job.id)
    assert (ended.status, ended.result) == (JobStatus.cancelled, None)
    assert storage.list(job_prefix(job.tenant, job.id)) == []
    last = job_store_of(settings).events(job.tenant, job.id, limit=1000)[-1]
    assert (last.type, last.data) == ("status", {"status": "cancelled"})


@pytest.mark.slow
def test_stopped_worker_hands_its_job_back(settings: Settings, storage: Storage, job: JobRecord) -> None:
    with worker(settings) as first:
        wait_until(is_attributing(settings, job))
        first.send_signal(signal.SIGTERM)
        first.wait(DEADLINE_SECONDS)
    waiting = job_store_of(settings).get(job.tenant, job.id)
    assert (waiting.status, waiting.lost) == (JobStatus.queued, 0)
    with worker(settings, "--burst"):
        wait_until(has_ended(settings, job))
    check_succeeded_once(settings, storage, job, attempt=2)


@pytest.mark.slow
def test_job_survives_a_restart_of_redis(settings: Settings, storage: Storage, model: Path) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:  # short: the socket keeps its path
        with embedded_redis(Path(directory)) as url:
            settings = settings.model_copy(update={"redis_url": url})
            job = submit(settings, request(model, ROWS))
            parent = stack.enter_context(worker(settings))
            wait_until(is_attributing(settings, job))
        with embedded_redis(Path(directory)):
            wait_until(has_ended(settings, job))
            check_succeeded_once(settings, storage, job, attempt=1)
            assert parent.is_running()


@pytest.mark.slow
def test_job_fails_at_its_deadline_with_the_stage_and_leaves_no_files(
    settings: Settings, storage: Storage, model: Path
) -> None:
    job = submit(settings, request(model, ROWS, deadline_seconds=10, method={"steps": 100}))
    with worker(settings):
        wait_until(has_ended(settings, job))
    ended = job_store_of(settings).get(job.tenant, job.id)
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (JobStatus.failed, "deadline_exceeded")
    assert ended.stage is not None  # `attribute`, except on a machine that needs 10 seconds for the stages before it
    assert ended.error.message == (
        f"the job ran longer than its deadline of 10 seconds and was in the stage {ended.stage}: "
        "set a higher `deadline_seconds`"
    )
    assert storage.list(job_prefix(job.tenant, job.id)) == []


@pytest.mark.parametrize(
    "payload",
    [
        ("os.system", None, ["touch {proof}"], {}),
        pytest.param(("worker.tasks.os.system", None, ["touch {proof}"], {}), marks=pytest.mark.slow),
        pytest.param(("run_job", "worker.tasks", [], {}), marks=pytest.mark.slow),
    ],
)
def test_rq_job_for_another_function_is_refused(
    settings: Settings, tmp_path: Path, payload: tuple[str, str | None, list[str], dict[str, str]]
) -> None:
    proof = tmp_path / "proof"
    redis = connect(settings.redis_url, decode=False)
    name, instance, arguments, options = payload
    put_foreign_rq_job(redis, [name, instance, [text.format(proof=proof) for text in arguments], options])
    with worker(settings, "--burst") as process:
        process.wait(DEADLINE_SECONDS)
    assert JobQueue(redis).depth() == 0
    result = RqJob.fetch(FOREIGN, connection=redis, serializer=SERIALIZER).latest_result()
    assert result is not None
    assert "PermissionError" in (result.exc_string or "")
    assert not proof.exists()
    lines = [json.loads(line) for line in (settings.state / "worker.log").read_text().splitlines()]
    (told,) = [line for line in lines if line["level"] == "error"]
    assert "PermissionError" in told["event"]
    assert (told["job_id"], told["process"]) == (FOREIGN, "worker")
