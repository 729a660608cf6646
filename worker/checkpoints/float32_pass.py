"""Computes in float32 with a model whose weights have half precision, without a second copy of the whole model."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.units.layers import layers_of

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def float32_pass(model: nn.Module, architecture: Architecture) -> Iterator[None]:
    """Within the context the weights in half precision are converted to float32 as they are used.

    Embeddings, norms and the head are converted at once; of the layers one at a time.
    """
    layers = [layer for stack in architecture.stacks for layer in layers_of(model, stack)]
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    with ExitStack() as stack:
        stack.enter_context(_widened(each for each in model.parameters() if id(each) not in in_layers))
        for layer in layers:
            stack.enter_context(_widened_in_use(layer))
        yield


@contextmanager
def _widened(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    narrow = _widen(parameters)
    try:
        yield
    finally:
        _restore(narrow)


@contextmanager
def _widened_in_use(layer: nn.Module) -> Iterator[None]:
    narrow: list[tuple[nn.Parameter, Tensor]] = []

    def before(module: nn.Module, args: Any) -> None:
        narrow.extend(_widen(module.parameters()))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        _restore(narrow)
        narrow.clear()

    handles = [layer.register_forward_pre_hook(before), layer.register_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _widen(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Convert the data of the parameters in half precision; each of them with the data that it had."""
    narrow = [(parameter, parameter.data) for parameter in parameters if parameter.dtype in HALF]
    for parameter, data in narrow:
        parameter.data = data.float()
    return narrow


def _restore(narrow: list[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, data in narrow:
        parameter.data = data
