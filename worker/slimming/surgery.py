"""Cuts units out of a model, or silences them to show what the cut will do. Both are exact."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.groups import Site


def cut(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> None:
    """Slice the model in place to the `kept` units and set its config, so that a stock class loads what is saved."""
    raise NotImplementedError


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> Iterator[None]:
    """Within the context the units that are not in `kept` contribute nothing."""
    raise NotImplementedError
    yield
