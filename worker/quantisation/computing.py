"""Computes with quantised weights in a model that is not stored quantised."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from worker.quantisation.weights import QuantisedWeight, rounded, scale_of


@contextmanager
def computing_with(
    model: nn.Module,
    weights: Mapping[str, QuantisedWeight],
    *,
    activation_bits: int | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[None]:
    """Within the context the modules at these paths have the quantised weights, in `dtype` or that of their own.

    With `activation_bits` each token's inputs of these modules are rounded to so many bits, with a scale of its own.
    """
    with ExitStack() as stack:
        for path, weight in weights.items():
            stack.enter_context(_replaced(model.get_submodule(path).get_parameter("weight"), weight, dtype))
            if activation_bits is not None:
                stack.enter_context(_rounding_inputs(model.get_submodule(path), activation_bits))
        yield


def compute_with(model: nn.Module, weights: Mapping[str, QuantisedWeight], activation_bits: int | None) -> None:
    """As `computing_with`, for good. The model gets parameters of its own; others that shared them keep theirs."""
    for path, weight in weights.items():
        module = model.get_submodule(path)
        own = module.get_parameter("weight")
        module.weight = nn.Parameter(weight.dense_OI.to(own.device, own.dtype), requires_grad=False)
        if activation_bits is not None:
            module.register_forward_pre_hook(_rounding(activation_bits))


@contextmanager
def _replaced(parameter: nn.Parameter, weight: QuantisedWeight, dtype: torch.dtype | None) -> Iterator[None]:
    own = parameter.data
    parameter.data = weight.dense_OI.to(own.device, dtype or own.dtype)
    try:
        yield
    finally:
        parameter.data = own


@contextmanager
def _rounding_inputs(module: nn.Module, bits: int) -> Iterator[None]:
    handle = module.register_forward_pre_hook(_rounding(bits))
    try:
        yield
    finally:
        handle.remove()


def _rounding(bits: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that rounds the input of a module, each token with a scale of its own."""

    def round_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0].flatten(0, -2)
        values = rounded(states, scale_of(states, bits, None, torch.float32), bits)
        return (values.dense_OI.reshape(args[0].shape).to(args[0].dtype), *args[1:])

    return round_input
