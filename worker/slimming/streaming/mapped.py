"""Tensors in files that are mapped into memory.

The kernel reads their pages as they are used, and takes them back where memory is needed, so that such a tensor takes
room on the disk alone. A tensor that replaces one in a file is written to a file in the same directory (`beside`); thus
repaired and cut weights stay out of the memory too.
"""

import ctypes
import os
from pathlib import Path
from tempfile import mkstemp

import torch
from torch import Tensor

M_MMAP_THRESHOLD = -3  # of mallopt in malloc.h of glibc
RETURNED_BYTES = 2**20


def return_freed_memory() -> None:
    """Let every larger block of memory go back to the system when it is freed.

    glibc keeps blocks of up to 32 MiB for later, between which small ones soon lie; a pass over the weights of a large
    model then leaves the process as large as the model. Other libraries of C are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES)


def in_file(tensor: Tensor, directory: Path, dtype: torch.dtype | None = None) -> Tensor:
    """The same values in a new file of the directory, in the given dtype or in that of the tensor.

    The file has no name, and is freed with the tensor. Raises OSError where the disk has no room.
    """
    dtype = dtype or tensor.dtype
    if tensor.numel() == 0:
        return tensor.to(dtype)
    descriptor, path = mkstemp(dir=directory, suffix=".weights")
    try:
        # On a full disk the process would end at its first write.
        os.posix_fallocate(descriptor, 0, tensor.numel() * dtype.itemsize)
        mapped = torch.from_file(path, shared=True, size=tensor.numel(), dtype=dtype)
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
