"""Layers that are computed again in the backward pass, so that a pass keeps the activations of one layer at a time.

Between the passes the hidden states in front of each layer are held, and nothing else (activation recomputation: Chen,
Xu, Zhang and Guestrin, arXiv 1604.06174). Hooks in a layer run in both passes, and see gradients in the second.

Shape suffixes: B rows of a batch, T positions, D hidden size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.layer_runner import without_cache
from worker.slimming.streaming.mapped import directory_of, in_file, return_freed_memory
from worker.slimming.units.layers import layers_of

Run = Callable[[Tensor], Tensor]  # hidden states (B, T, D) in front of a layer -> behind it


def can_stream(architecture: Architecture, config: Any) -> bool:
    """Whether the model has one stack of layers, each of which takes nothing but its hidden states from the others.

    The decoder of an encoder-decoder takes the encoder's states too, and the later layers of some Gemma 4 take keys and
    values of earlier ones.
    """
    return len(architecture.stacks) == 1 and not getattr(config, "num_kv_shared_layers", None)


def stream(model: nn.Module, architecture: Architecture, directory: Path, dtype: torch.dtype) -> None:
    """Move the weights of a model on the CPU into files of the directory, in this dtype, one tensor at a time; and let
    its layers be computed again in the backward pass. Raises OSError where the disk has no room."""
    return_freed_memory()
    for parameter in model.parameters():
        parameter.data = in_file(parameter.data, directory, dtype)
    recompute_layers(model, architecture)


def recompute_layers(model: nn.Module, architecture: Architecture) -> None:
    """Let the layers of the model be computed again in the backward pass."""
    layers = [layer for stack in architecture.stacks for layer in layers_of(model, stack)]
    classes = {each: _recomputed_class(each) for each in dict.fromkeys(map(type, layers))}
    for layer in layers:
        layer.__class__ = classes[type(layer)]


def is_streamed(model: nn.Module) -> bool:
    """Whether the weights of the model lie in files."""
    return directory_of(next(model.parameters())) is not None


class RecomputedLayer(nn.Module):
    """The part that `recompute_layers` adds to the class of a layer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the layer; where gradients are taken, through `_Recomputed` and without a key-value cache."""
        if not torch.is_grad_enabled():
            return super().__call__(*args, **kwargs)
        hidden_BTD, *others = args if args else (kwargs.pop("hidden_states"),)
        others = [without_cache(value) for value in others]
        named = {name: without_cache(value) for name, value in kwargs.items()}
        beside: list[tuple[Any, ...]] = []  # what the layer returns behind the hidden states, where it is a tuple

        def run(states_BTD: Tensor) -> Tensor:
            output = super(RecomputedLayer, self).__call__(states_BTD, *others, **named)
            if isinstance(output, tuple):
                beside.append(output[1:])
            states: Tensor = output[0] if isinstance(output, tuple) else output
            return states

        followed_BTD = hidden_BTD if hidden_BTD.requires_grad else hidden_BTD.detach().requires_grad_()
        states_BTD: Tensor = _Recomputed.apply(followed_BTD, run)  # type: ignore[no-untyped-call]
        return (states_BTD, *beside[0]) if beside else states_BTD


def _recomputed_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    body = {"__module__": layer_class.__module__, "__doc__": layer_class.__doc__}
    return type(layer_class.__name__, (RecomputedLayer, layer_class), body)


class _Recomputed(torch.autograd.Function):
    """A layer whose backward pass begins with another forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_BTD: Tensor, run: Run) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(hidden_BTD)
        return run(hidden_BTD.detach())

    @staticmethod
    def backward(ctx: Any, gradient_BTD: Tensor) -> tuple[Tensor | None, None]:
        [hidden_BTD] = ctx.saved_tensors
        leaf_BTD = hidden_BTD.detach().requires_grad_()
        with torch.enable_grad():
            output_BTD = ctx.run(leaf_BTD)
        torch.autograd.backward(output_BTD, gradient_BTD)
        return leaf_BTD.grad, None
