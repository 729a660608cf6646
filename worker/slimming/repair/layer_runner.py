"""Runs the layers of a stack one at a time, for models that are to be compared layer by layer.

Shape suffixes: B rows of a batch, T positions, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.scoring.objectives import Batch, token_log_probabilities
from worker.slimming.units import layers_of


class Call(NamedTuple):
    """How a model calls a layer, but for the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Entry(NamedTuple):
    """A batch on its way into a stack: the first layer's input, and how each layer is called."""

    hidden_BTD: Tensor
    calls: list[Call]


class Entered(Exception):
    """Ends a pass when the last layer of the stack is called."""


def enter(model: nn.Module, stack: Stack, batches: Sequence[Batch]) -> list[Entry]:
    """Every batch at the entry of the stack. Costs what is before the stack, and its first layer; none gets a cache."""
    entries = []
    for batch in batches:
        with ExitStack() as hooks:
            noted = [hooks.enter_context(_noting(layer)) for layer in layers_of(model, stack)]
            hooks.enter_context(_passing_through(layers_of(model, stack)))
            with suppress(Entered):
                token_log_probabilities(model, batch)
        first, *_ = noted
        entries.append(Entry(first[0][0], [call for ((_, call),) in noted]))
    return entries


def run(layer: nn.Module, hidden_BTD: Tensor, call: Call) -> Tensor:
    """What the layer makes of the hidden states (B, T, D)."""
    output = layer(hidden_BTD, *call.args, **call.kwargs)
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@contextmanager
def _passing_through(layers: nn.ModuleList) -> Iterator[None]:
    """Layers hand on what the first has made, a position bias for all of them among it; the last ends the pass."""
    first, *between = list(layers)[:-1] or [layers[-1]]
    made: list[Any] = []
    handle = first.register_forward_hook(lambda _, __, output: made.append(output))

    def hand_on(*_: Any, **__: Any) -> Any:
        return made[-1]

    def end(*_: Any, **__: Any) -> None:
        raise Entered

    try:
        for layer in between:
            layer.forward = hand_on
        layers[-1].forward = end
        yield
    finally:
        handle.remove()
        for layer in (*between, layers[-1]):
            vars(layer).pop("forward", None)


@contextmanager
def _noting(layer: nn.Module) -> Iterator[list[tuple[Tensor, Call]]]:
    noted: list[tuple[Tensor, Call]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, *others = args if args else (kwargs["hidden_states"],)
        others_named = {name: _uncached(value) for name, value in kwargs.items() if name != "hidden_states"}
        noted.append((hidden.detach(), Call(tuple(map(_uncached, others)), others_named)))

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield noted
    finally:
        handle.remove()


def _uncached(value: Any) -> Any:
    """A layer that runs a second time would find its first keys and values in a cache of transformers."""
    return None if hasattr(value, "get_seq_length") else value
