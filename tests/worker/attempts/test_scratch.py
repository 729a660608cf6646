"""Errors of a full scratch directory. The device /dev/full of the kernel stands for a full disk."""

import errno
from pathlib import Path

import pytest

from service.contract.errors import InvalidModel, ScratchFull
from worker.attempts.scratch import scratch_directory


def fill(directory: Path) -> None:
    (directory / "file").symlink_to("/dev/full")
    (directory / "file").write_bytes(b"more than fits")


def test_write_to_a_full_disk_raises_scratch_full() -> None:
    with pytest.raises(ScratchFull, match="TMPDIR"), scratch_directory() as directory:
        fill(directory)
    assert not directory.exists()


def test_error_caused_by_a_full_disk_raises_scratch_full() -> None:
    with pytest.raises(ScratchFull), scratch_directory() as directory:
        load(directory)


def load(directory: Path) -> None:
    try:
        fill(directory)
    except OSError as error:
        raise InvalidModel("the checkpoint cannot be loaded") from error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), InvalidModel("no"), ValueError("no")])
def test_other_errors_are_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, scratch_directory():
        raise error
    assert caught.value is error


def test_scratch_directory_lies_in_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with scratch_directory() as directory:
        assert directory.parent == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError), scratch_directory():
        pass
