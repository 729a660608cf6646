"""Verifies checkpoints in the process of the test, where a test is about something else than a fresh one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.contract.result import Verified
from worker.checkpoints import verification
from worker.exports import checkpoint_logits
from worker.reporting import artifacts


@contextmanager
def verifying_here() -> Iterator[None]:
    """Within the context, checkpoints are loaded and computed in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "start_verification", lambda context: None)
        patch.setattr(verification, "compare_in_fresh_process", _compare)
        patch.setattr(checkpoint_logits, "compute_in_fresh_process", _compute)
        yield


def _compare(directory: Path, probe: Path, while_waiting: Callable[[], None], started: None) -> Verified:
    while_waiting()
    return verification.compare(directory, verification.Probe.read(probe))


def _compute(directory: Path, asked: Path, answered: Path, while_waiting: Callable[[], None]) -> None:
    while_waiting()
    checkpoint_logits.compute(directory, asked, answered)
