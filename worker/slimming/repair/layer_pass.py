"""Passes the batches through one layer of a model and records the inputs and outputs of its consumers.

Shape suffixes: B rows of a batch, T positions, N tokens of a batch, D hidden size, C input channels of a consumer, K
input channels that stay, O output channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.repair.consumers import Consumer
from worker.slimming.repair.layer_runner import LayerInput, run_layer
from worker.slimming.scoring.objectives import Batch


class LayerRecord(NamedTuple):
    """One batch that passed through one layer. All but the layer's output holds tokens alone, without padding."""

    output_BTD: Tensor
    stream_ND: Tensor | None  # the residual stream behind all that the consumers add; None where it cannot be observed
    input_NC: Tensor | None  # of the first of the recorded consumers; in a cut layer (N, K)
    outputs: dict[str, Tensor]  # path of a consumer in the whole model -> (N, O)


@dataclass(frozen=True)
class LayerPass:
    """A layer of the dense or of a cut model, and the batches to pass through it."""

    layer: nn.Module
    index: int  # of the layer in the dense model's stack
    stack: Stack
    config: object
    batches: Sequence[Batch]
    place: torch.device  # where the records are held; a batch at a time is on the device of the layer

    def module(self, consumer: Consumer) -> Any:
        """The consumer's module in this layer."""
        return self.layer.get_submodule(consumer.path.removeprefix(f"{self.stack.layers}.{self.index}."))

    @property
    def output_is_stream(self) -> bool:
        """Whether the layer's output is the residual stream, to which the consumers' outputs are added."""
        return self.stack.stream_behind(self.config) == ""

    def ends_with(self, consumer: Consumer) -> bool:
        """Whether the consumer ends the layer's feed-forward block, so that nothing in the layer reads what it adds."""
        return self.module(consumer) is _submodule(self.layer, self.stack.feed_forward.contract)

    def begins_with(self, consumers: Sequence[Consumer]) -> bool:
        """Whether the first of the consumers is the first to add to the residual stream, which is the layer's input.

        So it is where the consumers are all modules that add to a stream that the layer returns.
        """
        return self.output_is_stream and len(consumers) == len(self.stack.attention) + 1

    @property
    def added_times(self) -> float:
        """By what the consumers' outputs are multiplied before they are added to the residual stream."""
        return float(getattr(self.config, self.stack.added_times)) if self.stack.added_times else 1.0

    def run(self, inputs: Sequence[LayerInput], consumers: Sequence[Consumer]) -> Iterator[LayerRecord]:
        """Pass each batch through the layer; one record for each."""
        stream_at = self.stack.stream_behind(self.config)
        for each, batch in zip(inputs, self.batches, strict=True):
            mask_BT = batch.masks[self.stack.name]
            with ExitStack() as hooks:
                seen = {consumer.path: hooks.enter_context(_recorded(self.module(consumer))) for consumer in consumers}
                norm = hooks.enter_context(_recorded(self.layer.get_submodule(stream_at))) if stream_at else {}
                output_BTD = run_layer(self.layer, each.hidden_BTD.to(mask_BT.device), each.calls[0])
            stream_BTD = output_BTD if stream_at == "" else norm.get("input")
            first = next(iter(seen.values()), {}).get("input")
            yield LayerRecord(
                output_BTD.to(self.place),
                None if stream_BTD is None else _tokens(stream_BTD, mask_BT).to(self.place),
                None if first is None else _tokens(first, mask_BT).to(self.place),
                {path: _tokens(recorded["output"], mask_BT).to(self.place) for path, recorded in seen.items()},
            )

    def run_to(self, consumer: Consumer, inputs: Sequence[LayerInput]) -> Iterator[LayerRecord]:
        """Pass each batch through the layer up to the consumer, which is not computed; one record for each, without
        outputs. Its `output_BTD` is the layer's input."""
        for each, batch in zip(inputs, self.batches, strict=True):
            mask_BT = batch.masks[self.stack.name]
            with _input_alone(self.module(consumer)) as seen, suppress(InputReached):
                run_layer(self.layer, each.hidden_BTD.to(mask_BT.device), each.calls[0])
            yield LayerRecord(each.hidden_BTD, None, _tokens(seen["input"], mask_BT).to(self.place), {})

    def streams_in_front(self, inputs: Sequence[LayerInput]) -> list[Tensor]:
        """The residual stream in front of the layer, for each batch (N, D)."""
        return [
            _tokens(each.hidden_BTD, batch.masks[self.stack.name].to(each.hidden_BTD.device)).to(self.place)
            for each, batch in zip(inputs, self.batches, strict=True)
        ]

    def with_new_output(self, consumer: Consumer, records: Iterable[LayerRecord]) -> Iterator[LayerRecord]:
        """The records, their layer output changed in place to that of the layer with the consumer's present weight.

        Holds where `output_is_stream`, for the consumer that `ends_with` the layer, if each record has its input.
        """
        for record, batch in zip(records, self.batches, strict=True):
            assert record.input_NC is not None
            mask_BT = batch.masks[self.stack.name]
            new_NO = self.module(consumer)(record.input_NC.to(mask_BT.device)).to(self.place)
            change_NO = new_NO - record.outputs[consumer.path]
            record.output_BTD[mask_BT.to(self.place)] += change_NO * self.added_times
            yield record


def _submodule(layer: nn.Module, path: str) -> nn.Module | None:
    """The module of the layer; None in a layer without it, such as one with experts among others."""
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


class InputReached(Exception):
    """Ends a forward pass when it calls the module whose input is asked for."""


@contextmanager
def _input_alone(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context the module raises InputReached, and its "input" is an entry of the dictionary."""
    recorded: dict[str, Tensor] = {}

    def end_pass(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        recorded["input"] = args[0]
        raise InputReached

    handle = module.register_forward_pre_hook(end_pass)
    try:
        yield recorded
    finally:
        handle.remove()


@contextmanager
def _recorded(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context the module's last "input" and "output" are entries of the dictionary."""
    recorded: dict[str, Tensor] = {}
    handle = module.register_forward_hook(lambda module, args, output: recorded.update(input=args[0], output=output))
    try:
        yield recorded
    finally:
        handle.remove()


def _tokens(states: Tensor, mask_BT: Tensor) -> Tensor:
    """The states at tokens (N, D); some modules are called with all positions in one row."""
    return states.reshape(*mask_BT.shape, -1)[mask_BT]
