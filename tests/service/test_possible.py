"""What is remembered of a model's widths, and for which requests."""

from pathlib import Path

import pytest

from service.admission import Access
from service.errors import TargetUnreachable
from service.possible import Possible
from service.schemas import JobRequest
from service.storage import Storage
from tests import checkpoints
from tests.requests import plain_request


@pytest.fixture
def access(storage: Storage) -> Access:
    return Access(storage, "default", True, ())


def asking(model: Path, ratio: float) -> JobRequest:
    return plain_request(model={"uri": model.as_uri()}, target={"ratio": ratio}, output={"round_to": 8})


def test_a_second_request_for_the_same_widths_reads_no_headers(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama")
    possible = Possible()
    possible.check(asking(tmp_path / "model", 0.3), access)
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    possible.check(asking(tmp_path / "model", 0.3), access)


def test_other_widths_are_looked_at_and_a_refusal_is_not_remembered(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama")
    possible = Possible()
    possible.check(asking(tmp_path / "model", 0.3), access)
    for _ in range(2):
        with pytest.raises(TargetUnreachable):
            possible.check(asking(tmp_path / "model", 0.95), access)
