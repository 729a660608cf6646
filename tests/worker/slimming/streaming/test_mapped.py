"""Tensors in mapped files."""

import errno
import os
from pathlib import Path

import pytest
import torch

from worker.slimming.streaming.mapped import beside, directory_of, in_file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_tensor_in_a_file_has_the_same_values(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(12).to(dtype).view(3, 4).T
    mapped = in_file(tensor, tmp_path)
    assert torch.equal(mapped, tensor)
    assert mapped.is_contiguous()
    assert (directory_of(mapped), directory_of(tensor)) == (tmp_path, None)
    assert directory_of(mapped[1:].T) == tmp_path


def test_the_file_has_no_name_and_room_of_its_own(tmp_path: Path) -> None:
    first, second = (in_file(torch.zeros(1000), tmp_path) for _ in range(2))
    first += 1
    assert not list(tmp_path.iterdir())
    assert second.sum() == 0


def test_what_replaces_a_tensor_in_a_file_is_in_a_file(tmp_path: Path) -> None:
    old, new = in_file(torch.zeros(4), tmp_path), torch.ones(2)
    assert directory_of(beside(old, new)) == tmp_path
    assert beside(torch.zeros(4), new) is new


def test_an_empty_tensor_needs_no_file(tmp_path: Path) -> None:
    assert in_file(torch.empty(0, 3), tmp_path).shape == (0, 3)


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        in_file(torch.zeros(4), tmp_path)
    assert not list(tmp_path.iterdir())
