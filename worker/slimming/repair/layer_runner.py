"""Runs the layers of a stack one at a time, so that two models can be compared layer by layer.

Shape suffixes: B rows of a batch, T positions, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.scoring.objectives import Batch, token_scores
from worker.slimming.units.layers import layers_of, module_after_first


class LayerCall(NamedTuple):
    """The arguments with which a model calls a layer, apart from the hidden states.

    `after` is what the model does with the hidden states behind the layer, before it calls the next one.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    after: Callable[[Tensor], Tensor] | None = None


class LayerInput(NamedTuple):
    """A batch in front of a layer: its hidden states, and the calls of this layer and of those after it."""

    hidden_BTD: Tensor
    calls: list[LayerCall]


class LastLayerCalled(Exception):
    """Ends a forward pass of the model when it calls the last layer of the stack."""


def stack_inputs(model: nn.Module, stack: Stack, batches: Sequence[Batch]) -> list[LayerInput]:
    """Every batch in front of the first layer of the stack.

    Computes what precedes the stack and its first layer alone. The calls hold no key-value cache.
    """
    inputs = []
    layers = layers_of(model, stack)
    for batch in batches:
        with ExitStack() as hooks:
            recorded = [hooks.enter_context(_recorded_calls(layer)) for layer in layers]
            after = hooks.enter_context(_recorded_after(module_after_first(model, stack)))
            hooks.enter_context(_only_first_computed(layers))
            with suppress(LastLayerCalled):
                token_scores(model, batch)
        first, *_ = recorded
        calls = [call for ((_, call),) in recorded]
        inputs.append(LayerInput(first[0][0], [calls[0]._replace(after=next(iter(after), None)), *calls[1:]]))
    return inputs


def run_layer(layer: nn.Module, hidden_BTD: Tensor, call: LayerCall) -> Tensor:
    """The hidden states in front of the next layer (B, T, D)."""
    output = layer(hidden_BTD, *call.args, **call.kwargs)
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return call.after(states) if call.after else states


@contextmanager
def _only_first_computed(layers: nn.ModuleList) -> Iterator[None]:
    """Within the context the layers after the first return the first one's output, the position bias that T5 computes
    there for all layers included; the last layer raises LastLayerCalled."""
    first, *between = list(layers)[:-1] or [layers[-1]]
    outputs: list[Any] = []
    handle = first.register_forward_hook(lambda layer, args, output: outputs.append(output))

    def return_first_output(*args: Any, **kwargs: Any) -> Any:
        return outputs[-1]

    def end_pass(*args: Any, **kwargs: Any) -> None:
        raise LastLayerCalled

    try:
        for layer in between:
            layer.forward = return_first_output
        layers[-1].forward = end_pass
        yield
    finally:
        handle.remove()
        for layer in (*between, layers[-1]):
            vars(layer).pop("forward", None)


@contextmanager
def _recorded_calls(layer: nn.Module) -> Iterator[list[tuple[Tensor, LayerCall]]]:
    """Within the context every call of the layer is appended to the list."""
    recorded: list[tuple[Tensor, LayerCall]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, *others = args if args else (kwargs["hidden_states"],)
        named = {name: without_cache(value) for name, value in kwargs.items() if name != "hidden_states"}
        recorded.append((hidden.detach(), LayerCall(tuple(map(without_cache, others)), named)))

    handle = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield recorded
    finally:
        handle.remove()


@contextmanager
def _recorded_after(module: nn.Module | None) -> Iterator[list[Callable[[Tensor], Tensor]]]:
    """Within the context every call of the module of a DeBERTa behind its first layer is appended to the list, as a
    function of the hidden states behind that layer."""
    recorded: list[Callable[[Tensor], Tensor]] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        embedded, _, mask = args
        recorded.append(lambda states: module(embedded, states, mask))

    handle = None if module is None else module.register_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        if handle is not None:
            handle.remove()


def without_cache(value: Any) -> Any:
    """None in place of a cache of transformers: a second run of the layer would find the first run's keys in it."""
    return None if hasattr(value, "get_seq_length") else value
