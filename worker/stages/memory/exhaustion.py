"""Turns the errors of exhausted memory into one that a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from service.contract.answers.job import Stage
from service.contract.errors import OutOfMemory

# What torch says in a RuntimeError where the memory of a CPU is exhausted.
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


@contextmanager
def naming_exhaustion(stage: Stage, tokens_per_batch: int) -> Iterator[None]:
    """Raise OutOfMemory where the memory of the device or of the machine runs out during a stage."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_exhaustion(error):
            raise
        raise OutOfMemory(
            f"the worker ran out of memory in the stage {stage}: send shorter rows or set `task.max_words`, run "
            f"workers with SLIM_TOKENS_PER_BATCH below {tokens_per_batch}, or use a device with more memory; a worker "
            "with SLIM_DEVICE=cpu reads weights that are larger than its memory from files"
        ) from error


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted: that of a GPU, of Python or of a CPU's tensors."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, OSError | RuntimeError) and any(text in str(error) for text in CPU_MESSAGES)
