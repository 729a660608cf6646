"""run_job as RQ calls it, in this process: the ending of an attempt and the files that it leaves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from redis import Redis

from service.contract.answers.job import JobStatus, Stage
from service.contract.answers.resources import Manifest
from service.contract.request.job_request import JobRequest
from service.contract.request.task import DataSource
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.keys import attempt_prefix, job_prefix, manifest_key
from service.storage.object_store import Storage
from tests.support.contract_examples import REQUEST, make_checks_due, report
from tests.support.jobs import checkpoint, environment, request
from tests.support.quick_verification import verifying_here
from tests.support.waiting import wait_until
from worker.tasks import run_job

RUN_JOB = "import sys; from worker.tasks import run_job; run_job('default', sys.argv[1], 1)"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def deployment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables that run_job reads its settings from."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def job_store(redis: Redis) -> JobStore:
    return JobStore(redis)


def run(job_store: JobStore, job: JobRequest, attempt: int = 1) -> JobRecord:
    """Run an attempt of a new job, and return its record."""
    record = job_store.accept(new_record(job))
    with verifying_here():
        run_job(record.tenant, record.id, attempt)
    return job_store.get(record.tenant, record.id)


def test_successful_job_has_an_event_for_every_stage(job_store: JobStore, storage: Storage, model: Path) -> None:
    job = run(job_store, request(model, 40))
    assert (job.status, job.error, job.progress.fraction) == (JobStatus.succeeded, None, 1)
    assert storage.exists(manifest_key(job.tenant, job.id))
    stages = [
        event.data["stage"] for event in job_store.events(job.tenant, job.id, limit=1000) if event.type == "stage"
    ]
    assert stages[0] == "fetch"
    assert stages[-1] == "upload"


def test_error_of_the_user_fails_the_job_and_deletes_its_files(
    job_store: JobStore, storage: Storage, model: Path
) -> None:
    asked = request(model, 40)
    labels = asked.slimmed_for[0].model_copy(update={"labels": {"positive": "positive", "neutral": "film"}})
    job = run(job_store, asked.model_copy(update={"task": labels}))
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.failed, "unknown_label")
    assert "negative" in job.error.message
    assert storage.list(job_prefix(job.tenant, job.id)) == []


def test_record_has_the_curve_of_a_sweep(job_store: JobStore, model: Path) -> None:
    job = run(job_store, request(model, 40, target={"sweep": [0.3, 0.5]}))
    assert job.result is not None
    assert [(point.examples, point.artifact) for point in job.result.curve] == [(20, None), (20, "model")]


def test_record_has_the_curve_of_a_failed_search(job_store: JobStore, model: Path) -> None:
    job = run(job_store, request(model, 40, target={"keep_metric": 1.0}))
    assert job.error is not None
    assert (job.status, job.error.code, job.error.param) == (
        JobStatus.failed,
        "target_unreachable",
        "target.keep_metric",
    )
    assert job.error.curve
    assert not any(point.meets for point in job.error.curve)


def test_bug_fails_the_job_without_its_details(
    job_store: JobStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIM_DEVICE", "no-such-device")
    job = run(job_store, request(model, 40))
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.failed, "internal_error")
    assert "device" not in job.error.message


@pytest.mark.parametrize("attempt", [0, 2])
def test_rq_job_of_another_attempt_is_ignored(job_store: JobStore, attempt: int) -> None:
    assert run(job_store, REQUEST, attempt).status is JobStatus.queued


def test_rq_job_of_a_deleted_job_is_ignored(job_store: JobStore) -> None:
    run_job("default", "01ARZ3NDEKTSV4RRFFQ69G5FAV", 1)
    assert job_store.page("default").records == []


def test_attempt_uses_the_committed_result_of_an_earlier_one(
    redis: Redis, job_store: JobStore, storage: Storage
) -> None:
    job = job_store.accept(new_record(REQUEST))
    job_store.lease(job.tenant, job.id, 1, "w")
    make_checks_due(redis)
    job_store.requeue_overdue(job_store.get(job.tenant, job.id))
    prefix = attempt_prefix(job.tenant, job.id, 1)
    storage.put_bytes(report(job, 1).model_dump_json().encode(), f"{prefix}report.json")
    manifest = Manifest(job_id=job.id, attempt=1, files=[])
    storage.put_if_absent(manifest.model_dump_json().encode(), manifest_key(job.tenant, job.id))
    run_job(job.tenant, job.id, 2)
    ended = job_store.get(job.tenant, job.id)
    assert (ended.status, ended.attempt, ended.result) == (JobStatus.succeeded, 2, report(job, 1).result)
    assert storage.exists(f"{prefix}report.json")


@pytest.fixture
def stuck(
    settings: Settings, job_store: JobStore, model: Path, tmp_path: Path
) -> Iterator[tuple[JobRecord, Popen[bytes]]]:
    """A running job and its process, which hangs: its rows are a named pipe without a writer."""
    os.mkfifo(tmp_path / "rows.jsonl")
    asked = request(model, 40)
    rows = DataSource(uri=(tmp_path / "rows.jsonl").as_uri())
    task = asked.slimmed_for[0].model_copy(update={"calibration": rows})
    job = job_store.accept(new_record(asked.model_copy(update={"task": task})))
    impatient = settings.model_copy(update={"cancel_grace_seconds": 0.5})
    with Popen([sys.executable, "-c", RUN_JOB, job.id], env=environment(impatient)) as process:
        wait_until(lambda: job_store.get(job.tenant, job.id).stage is Stage.fetch)
        yield job, process
        process.kill()


@pytest.mark.slow
def test_stuck_attempt_of_a_cancelled_job_is_ended(job_store: JobStore, stuck: tuple[JobRecord, Popen[bytes]]) -> None:
    job, process = stuck
    job_store.cancel(job.tenant, job.id)
    assert process.wait(60) == 1
    assert job_store.get(job.tenant, job.id).status is JobStatus.cancelled


def test_stuck_attempt_hands_its_job_back_on_sigterm(
    settings: Settings, job_store: JobStore, stuck: tuple[JobRecord, Popen[bytes]]
) -> None:
    job, process = stuck
    process.terminate()
    assert process.wait(60) == 1
    after = job_store.get(job.tenant, job.id)
    assert (after.status, after.lost) == (JobStatus.queued, 0)
    assert JobQueue(connect(settings.redis_url, decode=False)).contains(after)


@pytest.mark.slow
def test_attempt_with_a_full_disk_hands_its_job_back(job_store: JobStore, model: Path, tmp_path: Path) -> None:
    confined = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount, variables = 'mount -t tmpfs -o size=4k scratch "$TMPDIR"', os.environ | {"TMPDIR": str(tmp_path / "scratch")}
    (tmp_path / "scratch").mkdir()
    if subprocess.run([*confined, mount], env=variables, check=False).returncode != 0:
        pytest.skip("a small file system needs user namespaces")
    job = job_store.accept(new_record(request(model, 40)))
    command = [*confined, f'{mount} && exec "$@"', "worker", sys.executable, "-c", RUN_JOB, job.id]
    queue = JobQueue(connect(os.environ["SLIM_REDIS_URL"], decode=False))
    with Popen(command, env=variables) as process:
        wait_until(lambda: queue.depth() == 1, 150)
        process.kill()
    after = job_store.get(job.tenant, job.id)
    assert (after.status, after.attempt, after.lost) == (JobStatus.queued, 1, 0)
    assert after.attempts[0].outcome == "handed_back"
    logs = [event.data["message"] for event in job_store.events(job.tenant, job.id) if event.type == "log"]
    assert len(logs) == 1
    assert "no room" in logs[0]
    assert queue.contains(after)
