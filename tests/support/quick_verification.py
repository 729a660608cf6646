"""Verifies checkpoints in the process of the test, where a test is about something else than a fresh one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.contract.answers.result import Verified
from worker.checkpoints import verification
from worker.exports import checkpoint_logits
from worker.quantisation import verification as quantised_verification
from worker.reporting import artifacts


@contextmanager
def verifying_here() -> Iterator[None]:
    """Within the context, checkpoints are loaded and computed in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "start_verification", lambda context: None)
        patch.setattr(verification, "compare_in_fresh_process", _compare)
        patch.setattr(checkpoint_logits, "compute_in_fresh_process", _compute)
        patch.setattr(quantised_verification, "compare_in_fresh_process", _compare_quantised)
        yield


def _compare(directory: Path, probe: Path, while_waiting: Callable[[], None], started: None) -> Verified:
    while_waiting()
    return verification.compare(directory, verification.Probe.read(probe))


def _compute(directory: Path, asked: Path, answered: Path, while_waiting: Callable[[], None]) -> None:
    while_waiting()
    checkpoint_logits.compute(directory, asked, answered)


def _compare_quantised(
    directory: Path, probes: Sequence[Path], while_waiting: Callable[[], None]
) -> quantised_verification.Compared:
    while_waiting()
    return quantised_verification.compare(directory, *map(verification.Probe.read, probes))
