"""Jobs on a device that has memory for a part of the rows of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from service.contract.answers.job import Stage
from service.contract.errors import OutOfMemory
from tests.support.pipeline_jobs import Deployment, Recorder

METHOD = {"repair": "least_squares"}


@contextmanager
def memory_for(tokens: int, progress: Recorder, stage: Stage) -> Iterator[None]:
    """Within the context a model that reads more tokens at once in a stage has no memory left."""

    def check(module: nn.Module, args: tuple[object, ...]) -> None:
        if isinstance(module, nn.Embedding) and progress.stages[-1:] == [stage]:
            [ids_BT] = args
            assert isinstance(ids_BT, torch.Tensor)
            if ids_BT.numel() > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("stage", [Stage.evaluate_dense, Stage.attribute])
def test_batches_are_halved_until_they_fit(stage: Stage, tmp_path: Path) -> None:
    progress, deployment = Recorder(), Deployment(tmp_path)
    expected = deployment.run(deployment.request(method=METHOD)).metrics
    with memory_for(40, progress, stage):
        found = deployment.run(deployment.request(method=METHOD), progress).metrics
    assert progress.stages.count(stage) == 1
    assert found.slim.log_likelihood == pytest.approx(expected.slim.log_likelihood, rel=1e-3)


def test_a_row_that_does_not_fit_alone_ends_the_job(tmp_path: Path) -> None:
    progress, deployment = Recorder(), Deployment(tmp_path)
    with (
        memory_for(2, progress, Stage.attribute),
        pytest.raises(OutOfMemory, match="no memory for one row at a time: send shorter rows"),
    ):
        deployment.run(deployment.request(method=METHOD), progress)
