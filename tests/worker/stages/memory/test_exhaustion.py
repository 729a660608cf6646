"""Exhausted memory ends a job with a code of its own."""

from collections.abc import Callable

import pytest
import torch

from service.contract.answers.job import Stage
from service.contract.errors import OutOfMemory
from worker.stages.memory.exhaustion import naming_exhaustion

HUGE = 2**50  # bytes


def allocate_tensor() -> None:
    torch.empty(HUGE, dtype=torch.uint8)


def allocate_bytes() -> None:
    bytearray(HUGE)


def exhaust_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("exhaust", [allocate_tensor, allocate_bytes, exhaust_gpu])
def test_exhausted_memory_names_the_stage_and_what_to_change(exhaust: Callable[[], None]) -> None:
    says = r"in the stage attribute: send shorter rows .* below 4096"
    with pytest.raises(OutOfMemory, match=says) as caught, naming_exhaustion(Stage.attribute, 4096):
        exhaust()
    assert caught.value.code == "out_of_memory"


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="another"), naming_exhaustion(Stage.attribute, 4096):
        raise RuntimeError("another")
