"""How much memory a forward pass takes: the weights, and beside them the most that it holds at once.

The interpreter, its libraries and the pages that an allocator keeps for later are not part of it.
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
    """Bytes of the parameters and buffers, shared ones counted once."""
    return sum(tensor.nbytes for tensors in (model.parameters(), model.buffers()) for tensor in tensors)


def peak_bytes(model: nn.Module, batch: Batch) -> int:
    """The most bytes that the model and one forward pass of `batch` hold at once, by the tensors that are alive.

    The same for every run, and what `torch.cuda.max_memory_allocated` counts on a GPU, less what a kernel takes for
    itself until it returns. The pass is several times slower than one that is not watched.
    """
    alive = Alive()
    with torch.inference_mode(), alive:
        model(**batch.inputs)
    return weight_bytes(model) + alive.peak


class Alive(TorchDispatchMode):
    """Adds up the storages that operations make, from their first tensor until the last one is gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.peak = 0, 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # a view is no new one
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
