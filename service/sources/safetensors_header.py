"""Headers of safetensors files: names, types and shapes of a checkpoint's tensors, without their values.

The format (https://huggingface.co/docs/safetensors): eight bytes of length, little-endian, then a JSON object, padded
with spaces to a multiple of eight, then the values.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class DamagedHeader(ValueError):
    """What lies there is no header of a safetensors file that can be planned with."""


@dataclass(frozen=True)
class TensorShape:
    """One tensor of a file."""

    dtype: str  # in the format's words: "BF16"
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.count * BYTES[self.dtype]

    def cast(self, dtype: str) -> "TensorShape":
        """The same in another type; whole numbers stay what they are."""
        return replace(self, dtype=dtype) if self.dtype in FLOATS else self


Tensors = Mapping[str, TensorShape]


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    tensors: Tensors
    file_bytes: int  # of the whole file


def read_header(read: Callable[[int, int], bytes]) -> Header:
    """The header of a file whose bytes [start, end) `read` gives. Raises DamagedHeader."""
    length = int.from_bytes(read(0, LENGTH_BYTES), "little")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise DamagedHeader(f"its header would have {length} bytes")
    try:
        entries = json.loads(read(LENGTH_BYTES, LENGTH_BYTES + length))
    except (ValueError, RecursionError) as error:
        raise DamagedHeader("its header is not JSON") from error
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise DamagedHeader(f"its header is not an object of at most {MAX_TENSORS} tensors")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    return Header(tensors, LENGTH_BYTES + length + sum(tensor.size for tensor in tensors.values()))


def file_size(tensors: Tensors) -> int:
    """Bytes of the one file that safetensors writes for these tensors."""
    return LENGTH_BYTES + _header_size(tensors) + sum(tensor.size for tensor in tensors.values())


def _tensor(name: str, entry: Any) -> TensorShape:
    try:
        tensor = TensorShape(entry["dtype"], tuple(entry["shape"]))
        start, end = entry["data_offsets"]
        fits = all(type(size) is int and size >= 0 for size in tensor.shape) and end - start == tensor.size
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedHeader(f"its tensor {name!r} is not described as the format wants it") from error
    if not fits:
        raise DamagedHeader(f"its tensor {name!r} does not have the size of its shape")
    return tensor


def _header_size(tensors: Tensors) -> int:
    order = sorted(tensors.items(), key=lambda item: (-BYTES[item[1].dtype], item[0]))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in order:
        end = offset + tensor.size
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    length = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return -(-length // 8) * 8
