"""The process that waits for an attempt, alone and with a real worker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service.contract.answers.job import JobStatus
from service.jobs.record import JobRecord
from service.settings import Settings
from tests.support.jobs import checkpoint, job_store_of, request, submit, worker
from tests.support.processes import find_attempt, find_child, has_ended, wait_for_attempt, wait_for_child
from tests.support.processes import wait_for_standby as wait_for_standby_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from worker.attempts.standby import HandedOver, StandbyProcess

FIRST = HandedOver(rq_job="first-1", execution="a")
SECOND = HandedOver(rq_job="second-1", execution="b")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The file that the process of an attempt writes."""
    return tmp_path / "attempt"


@pytest.fixture
def standby(written: Path) -> Iterator[StandbyProcess]:
    process = StandbyProcess("tests.support.echo_attempt", [str(written)])
    yield process
    process.end()


def waiting() -> psutil.Process:
    """The process that this one has started and that waits."""
    return wait_for_child(psutil.Process(), lambda command: "tests.support.echo_attempt" in command)


def check_ran(pid: int, attempt: HandedOver, written: Path) -> None:
    """The process runs the attempt and ends."""
    assert os.waitpid(pid, 0) == (pid, 0)
    assert written.read_text() == f"{pid} {attempt.model_dump_json()}\n"


def test_each_attempt_has_the_process_that_waited_for_it(standby: StandbyProcess, written: Path) -> None:
    standby.keep()
    first = waiting()
    standby.keep()  # one is enough
    assert standby.hand_over(FIRST) == first.pid
    check_ran(first.pid, FIRST, written)
    standby.keep()
    second = waiting()
    assert second.pid != first.pid
    assert standby.hand_over(SECOND) == second.pid
    check_ran(second.pid, SECOND, written)


def test_attempt_without_a_process_that_waits_gets_a_new_one(standby: StandbyProcess, written: Path) -> None:
    check_ran(standby.hand_over(FIRST), FIRST, written)


def test_dead_process_is_replaced(standby: StandbyProcess, written: Path) -> None:
    standby.keep()
    dead = waiting()
    dead.kill()
    wait_until(lambda: has_ended(dead))
    standby.keep()
    assert waiting().pid != dead.pid
    check_ran(standby.hand_over(FIRST), FIRST, written)


def test_process_that_dies_while_it_gets_an_attempt_is_replaced(
    standby: StandbyProcess, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.keep()
    dead, keep = waiting(), standby.keep

    def keep_and_kill() -> None:
        keep()
        dead.kill()
        wait_until(lambda: has_ended(dead))

    monkeypatch.setattr(standby, "keep", keep_and_kill)
    pid = standby.hand_over(FIRST)
    assert pid != dead.pid
    check_ran(pid, FIRST, written)


def test_ended_process_leaves_nothing_behind(standby: StandbyProcess) -> None:
    files = psutil.Process().num_fds()
    standby.keep()
    process = waiting()
    standby.end()
    assert not process.is_running()
    assert psutil.Process().num_fds() == files
    standby.end()  # there is none


# --- with a worker ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def with_standby(settings: Settings) -> Settings:
    return settings.model_copy(update={"standby": True})


def check_succeeds_at_once(settings: Settings, job: JobRecord) -> None:
    """The job succeeds in its first attempt."""
    store = job_store_of(settings)
    wait_until(lambda: store.get(job.tenant, job.id).status.is_terminal)
    ended = store.get(job.tenant, job.id)
    assert (ended.status, ended.attempt, ended.lost) == (JobStatus.succeeded, 1, 0)


@pytest.mark.slow
def test_jobs_start_in_processes_that_waited_and_a_stopped_worker_leaves_none(
    with_standby: Settings, model: Path
) -> None:
    """The second process has done its imports before there is a job for it, and it has nothing of the first one."""
    with worker(with_standby) as parent:
        first = wait_for_standby_of(parent)
        environment = first.environ()
        before = submit(with_standby, request(model, 20))
        assert wait_for_attempt(parent) == first
        check_succeeds_at_once(with_standby, before)
        second = wait_for_standby_of(parent)
        assert second != first
        assert second.environ() == environment
        wait_until(lambda: has_ended(first))
        after = submit(with_standby, request(model, 20))
        assert wait_for_attempt(parent) == second
        check_succeeds_at_once(with_standby, after)
        third = wait_for_child(parent, other_than=second.pid)
        parent.send_signal(signal.SIGTERM)
        parent.wait(DEADLINE_SECONDS)
        assert not third.is_running()


@pytest.mark.slow
def test_killed_standby_process_loses_no_job(with_standby: Settings, model: Path) -> None:
    with worker(with_standby) as parent:
        dead = wait_for_standby_of(parent)
        dead.kill()
        wait_until(lambda: has_ended(dead))
        job = submit(with_standby, request(model, 20))
        check_succeeds_at_once(with_standby, job)
        assert find_attempt(parent) != dead


@pytest.mark.slow
def test_worker_without_a_standby_process_starts_one_with_a_job(settings: Settings, model: Path) -> None:
    with worker(settings) as parent:
        job = submit(settings, request(model, 20))
        assert wait_for_attempt(parent).ppid() == parent.pid
        check_succeeds_at_once(settings, job)
        wait_until(lambda: find_child(parent) is None)
