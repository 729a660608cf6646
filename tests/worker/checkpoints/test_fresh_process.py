"""A process that starts before it has arguments."""

import json
from pathlib import Path

import psutil
import pytest

from service.contract.errors import VerificationFailed
from tests.support.processes import has_ended, wait_for_child
from tests.support.waiting import wait_until
from worker.checkpoints.fresh_process import FreshProcess

MODULE = "tests.support.echo_arguments"


def child() -> psutil.Process:
    return wait_for_child(psutil.Process(), lambda command: MODULE in command)


def nothing() -> None:
    """The job goes on."""


def test_process_gets_arguments_after_its_start(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "a b"), 'quoted "text"', ""]
    with FreshProcess(MODULE, {"TASKSLIM_TEST": "1"}) as process:
        started = child()
        assert started.environ()["TASKSLIM_TEST"] == "1"
        assert json.loads(process.last_line(arguments, nothing, "failed")) == arguments
    assert has_ended(started)


def test_process_that_has_died_before_it_gets_arguments_fails() -> None:
    with FreshProcess(MODULE) as process:
        started = child()
        started.kill()
        wait_until(lambda: has_ended(started))
        with pytest.raises(VerificationFailed, match="it failed: it printed nothing"):
            process.last_line(["one"], nothing, "it failed")


def test_failure_has_the_last_line_of_the_process() -> None:
    with FreshProcess(MODULE) as process, pytest.raises(VerificationFailed, match="it failed: it was told to"):
        process.last_line(["fail"], nothing, "it failed")


def test_process_that_is_not_needed_ends_with_its_context() -> None:
    files = psutil.Process().num_fds()
    with FreshProcess(MODULE):
        started = child()
    assert has_ended(started)
    assert psutil.Process().num_fds() == files
