"""Headers of safetensors files: names, dtypes and shapes of the tensors, read without their values.

A file starts with eight bytes that hold the length of the header (little-endian), then comes the header, a JSON object
padded with spaces to a multiple of eight, then the values (https://huggingface.co/docs/safetensors). The library
`safetensors` reads whole files only; this module reads the header alone, from a disk or over the network.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

LENGTH_BYTES = 8
FIRST_BYTES = 100_000  # of the first request; the headers of most models are shorter
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BYTES |= {"U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# dtype as torch names it -> as the format spells it
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "bool": "BOOL",
}


class DamagedHeader(ValueError):
    """The bytes are not the header of a safetensors file, or a header with tensors that cannot be planned with."""


@dataclass(frozen=True)
class TensorShape:
    """Dtype and shape of a tensor."""

    dtype: str  # as the format spells it: "BF16"
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.count * BYTES[self.dtype]

    def cast(self, dtype: str) -> "TensorShape":
        """The tensor in another floating-point dtype; a tensor of integers keeps its own."""
        return replace(self, dtype=dtype) if self.dtype in FLOATS else self


Tensors = Mapping[str, TensorShape]


@dataclass(frozen=True)
class Header:
    """The tensors of a file, the size of the file that they are described to fill, its texts, and where values are."""

    tensors: Tensors
    file_bytes: int
    metadata: Mapping[str, str]
    starts: Mapping[str, int] = field(default_factory=dict)  # tensor -> first byte of its values, where that is known


def read_header(read: Callable[[int, int], bytes], *, max_bytes: int = MAX_HEADER_BYTES) -> Header:
    """The header, of at most `max_bytes`, of a file whose bytes [start, end) `read` returns; fewer where the file ends
    before. A store may refuse a range that starts behind the end, so none is asked for.

    A short header takes one call of `read`, a longer one two. Raises DamagedHeader.
    """
    first = read(0, FIRST_BYTES)
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if not 0 < length <= max_bytes:
        raise DamagedHeader(f"its header would have {length} bytes; the most are {max_bytes}")
    end = LENGTH_BYTES + length
    is_longer = end > FIRST_BYTES and len(first) == FIRST_BYTES
    content = first + read(FIRST_BYTES, end) if is_longer else first[:end]
    try:
        entries = json.loads(content[LENGTH_BYTES:])
    except (ValueError, RecursionError) as error:
        raise DamagedHeader("its header is not JSON") from error
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise DamagedHeader(f"its header is not an object of at most {MAX_TENSORS} tensors")
    described = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    tensors = {name: _tensor(name, entry) for name, entry in described.items()}
    _check_offsets([entry["data_offsets"] for entry in described.values()])
    file_bytes = end + sum(tensor.size for tensor in tensors.values())
    starts = {name: end + entry["data_offsets"][0] for name, entry in described.items()}
    return Header(tensors, file_bytes, entries.get("__metadata__") or {}, starts)


def file_size(tensors: Tensors) -> int:
    """Bytes of the one file that safetensors writes for these tensors."""
    return LENGTH_BYTES + _header_size(tensors) + sum(tensor.size for tensor in tensors.values())


def _tensor(name: str, entry: Any) -> TensorShape:
    try:
        tensor = TensorShape(entry["dtype"], tuple(entry["shape"]))
        start, end = entry["data_offsets"]
        fits = all(type(size) is int and size >= 0 for size in tensor.shape) and end - start == tensor.size
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedHeader(f"its tensor {name!r} lacks a known dtype, a shape or offsets") from error
    if not fits:
        raise DamagedHeader(f"its tensor {name!r} does not have the size of its shape")
    return tensor


def _check_offsets(spans: list[tuple[int, int]]) -> None:
    """Raise DamagedHeader unless the tensors fill the file from the start of the values, without gaps and overlaps."""
    ordered = [(0, 0), *sorted((start, end) for start, end in spans)]
    if any(start != end for (_, end), (start, _) in pairwise(ordered)):
        raise DamagedHeader("its tensors do not lie one after another")


def _header_size(tensors: Tensors) -> int:
    """Bytes of the header that safetensors writes: tensors by size of their dtype, then by name."""
    order = sorted(tensors.items(), key=lambda item: (-BYTES[item[1].dtype], item[0]))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in order:
        end = offset + tensor.size
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    length = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return -(-length // 8) * 8
