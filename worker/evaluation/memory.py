"""The memory of a forward pass: the weights and the peak size of all other tensors.

The interpreter, its libraries and the pages that an allocator caches are not counted.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worker.slimming.scoring.objectives import Batch


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers. Shared ones count once."""
    return sum(tensor.nbytes for tensors in (model.parameters(), model.buffers()) for tensor in tensors)


def peak_bytes(model: nn.Module, batch: Batch) -> int:
    """The peak bytes of the model's weights and of the live tensors of one forward pass of `batch`.

    The number is the same for every run. It is what `torch.cuda.max_memory_allocated` counts on a GPU, without the
    temporary memory of kernels. Counting makes the pass several times slower.
    """
    live = LiveStorages()
    with torch.inference_mode(), live:
        model(**batch.inputs)
    return weight_bytes(model) + live.peak


class LiveStorages(TorchDispatchMode):
    """Adds up the bytes of the storages that operations allocate, until the last tensor of each is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.peak = 0, 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(result):
            # A view shares the storage of its input.
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._storages:
            return
        self._storages.add(storage._cdata)
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, storage: int, size: int) -> None:
        self._storages.discard(storage)
        self.bytes -= size
