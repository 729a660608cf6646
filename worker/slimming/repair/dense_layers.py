"""The layers of the dense model in turn on the calibration rows, run once for several repairs of the same model.

A repair needs what each layer of the dense model writes, and this does not depend on the units that stay. The
candidates of a search share one `DenseLayers`. It keeps the records of the first layers, as many as fit into a part of
the memory that is free; those of the other layers are computed anew, from the last one that is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.repair.consumers import Consumer
from worker.slimming.repair.layer_pass import LayerPass, LayerRecord
from worker.slimming.repair.layer_runner import LayerInput, stack_inputs
from worker.slimming.scoring.objectives import Batch

KEPT_SHARE = 0.5  # of the budget for sums and hidden states, which a search may fill with records of the dense model


def spare_bytes(free: int, needed: int) -> int:
    """The bytes that records may take of a budget of which a repair needs a part: so few that every later repair has
    room for its own states."""
    return int(KEPT_SHARE * max(0, free - needed))


@dataclass(frozen=True)
class Placement:
    """Where hidden states are held between the layers, which of the batches are used, and the bytes for records."""

    place: torch.device
    part: slice
    spare: int


@dataclass
class DenseLayers:
    """What the layers of the dense model write on the calibration rows, kept as far as there is memory for it.

    Every repair that uses it has the same dense model, groups and rows.
    """

    placement: Placement | None = None  # of the first repair, and so of all
    _inputs: dict[str, list[LayerInput]] = field(default_factory=dict)  # stack -> batches in front of its first layer
    _records: dict[tuple[str, int], list[LayerRecord]] = field(default_factory=dict)  # by stack and index of the layer
    _used: int = 0  # bytes

    def placed(self, find: Callable[[], Placement]) -> Placement:
        """Where this repair holds its states. It is found once: the records take memory, and all repairs are alike."""
        if self.placement is None:
            self.placement = find()
        return self.placement

    def inputs(self, model: nn.Module, stack: Stack, batches: Sequence[Batch]) -> list[LayerInput]:
        """Every batch in front of the first layer of the stack."""
        if stack.name in self._inputs:
            return self._inputs[stack.name]
        found = stack_inputs(model, stack, batches)
        if self.placement is not None and self.placement.spare:
            self._inputs[stack.name] = found
        return found

    def records(
        self, layer_pass: LayerPass, inputs: Sequence[LayerInput], consumers: Sequence[Consumer]
    ) -> list[LayerRecord]:
        """What the layer and its consumers write; one record for each batch, without the consumers' input."""
        key = layer_pass.stack.name, layer_pass.index
        if key in self._records:
            return self._records[key]
        found = [record._replace(input_NC=None) for record in layer_pass.run(inputs, consumers)]
        needed = sum(map(_num_bytes, found))
        if self.placement is not None and self._used + needed <= self.placement.spare:
            self._used += needed
            self._records[key] = found
        return found


def _num_bytes(record: LayerRecord) -> int:
    tensors: list[Tensor | None] = [record.output_BTD, record.stream_ND, *record.outputs.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
