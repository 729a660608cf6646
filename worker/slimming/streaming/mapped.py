"""Tensors in files that are mapped into memory.

The kernel reads their pages as they are used, and takes them back where memory is needed, so that such a tensor takes
room on the disk alone. A tensor that replaces one in a file is written to a file in the same directory (`beside`); thus
repaired and cut weights stay out of the memory too.
"""

import os
from pathlib import Path
from tempfile import mkstemp

import torch
from torch import Tensor


def in_file(tensor: Tensor, directory: Path) -> Tensor:
    """The same values in a new file of the directory. The file has no name, and is freed with the tensor.

    Raises OSError where the disk has no room.
    """
    if tensor.numel() == 0:
        return tensor
    descriptor, path = mkstemp(dir=directory, suffix=".weights")
    try:
        os.posix_fallocate(descriptor, 0, tensor.nbytes)  # a full disk would end the process at the first write
        mapped = torch.from_file(path, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    finally:
        os.close(descriptor)
        Path(path).unlink()
    return mapped.view(tensor.shape).copy_(tensor)


def beside(old: Tensor, new: Tensor) -> Tensor:
    """The tensor that replaces `old`: in a file of the same directory where `old` is in one, else `new` itself."""
    directory = directory_of(old)
    return new if directory is None else in_file(new, directory)


def directory_of(tensor: Tensor) -> Path | None:
    """The directory of the tensor's file; None for a tensor in memory."""
    name = tensor.untyped_storage().filename if tensor.device.type == "cpu" else None
    return None if name is None else Path(name).parent
