"""Headers of safetensors files, whole and damaged."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors
import torch

from service.sources.safetensors_header import FIRST_BYTES, DamagedHeader, file_size, read_header
from tests.support import checkpoints


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff" * 8,
        header(b"[]"),
        header(b"{"),
        header(b'{"a": 1}'),
        header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'),
        header(b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}'),
        header(b"[" * 100_000),
    ],
)
def test_a_damaged_header_is_refused(damaged: bytes) -> None:
    with pytest.raises(DamagedHeader):
        read_header(lambda start, end: damaged[start:end])


@pytest.mark.parametrize("count", [10, 5000])
def test_a_header_is_read_in_at_most_two_pieces(count: int) -> None:
    entries = {f"tensor {n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(count)}
    content, pieces = header(json.dumps(entries).encode()) + bytes(count), []

    def read(start: int, end: int) -> bytes:
        pieces.append((start, end))
        return content[start:end]

    found = read_header(read)
    assert (len(found.tensors), found.file_bytes) == (count, len(content))
    assert len(pieces) == (1 if len(content) < FIRST_BYTES else 2)
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))


def test_a_file_that_ends_within_its_header_is_damaged() -> None:
    content = (2 * FIRST_BYTES).to_bytes(8, "little") + b"{" * 100

    def read(start: int, end: int) -> bytes:
        assert start < len(content), "an object store refuses a range that starts behind the end"
        return content[start:end]

    with pytest.raises(DamagedHeader, match="not JSON"):
        read_header(read)


def test_a_header_has_at_most_the_given_length() -> None:
    content = header(b"{}" + b" " * 100)
    assert read_header(lambda start, end: content[start:end], max_bytes=102).file_bytes == len(content)
    with pytest.raises(DamagedHeader, match="the most are 101"):
        read_header(lambda start, end: content[start:end], max_bytes=101)


def test_the_library_reads_the_same_header(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "bart", torch.bfloat16)
    content = (tmp_path / "model.safetensors").read_bytes()
    tensors = read_header(lambda start, end: content[start:end]).tensors
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    assert {name: tuple(one.get_shape()) for name, one in slices.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


def test_the_size_of_a_file_follows_from_its_header(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "bart", torch.float16)
    content = (tmp_path / "model.safetensors").read_bytes()
    header = read_header(lambda start, end: content[start:end])
    assert file_size(header.tensors) == header.file_bytes == len(content)
