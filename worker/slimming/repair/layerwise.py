"""Layerwise least squares: fit the consumers one after the other to the residual stream of the dense model.

`least_squares` fits every consumer to its own output in the dense model, as if nothing before it had changed. Here,
after that, each consumer is fitted again, from the first layer to the last, with the input that the cut model gives it.
Each layer thus compensates for the errors of the layers before it; `stream_fit` has the equations.

Shape suffixes as in layer_pass.py.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.free_memory import budget
from worker.slimming.repair import dense_layers
from worker.slimming.repair.consumers import Consumer, replace_kept_columns, replace_weight, weight_of
from worker.slimming.repair.dense_layers import DenseLayers, Placement
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput, ignore_states
from worker.slimming.repair.layer_pass import LayerPass, LayerRecord
from worker.slimming.repair.layer_runner import LayerInput, stack_inputs
from worker.slimming.repair.least_squares import first_passes, fit_first
from worker.slimming.repair.stream_fit import fit_to_stream
from worker.slimming.surgery.slicing import copy_sharing_tensors, cut
from worker.slimming.units.groups import Kept, Site
from worker.slimming.units.layers import layers_of

log = logging.getLogger(__name__)


def least_squares_layerwise(repair_input: RepairInput) -> None:
    """Fit every consumer as `least_squares` does, and then each in turn to the residual stream of the dense model.

    Experts, and blocks whose output is multiplied with a gate of each token, keep the first fit.
    """
    dense, layers = copy_sharing_tensors(repair_input.model), repair_input.dense or DenseLayers()
    placement = layers.placed(lambda: _placement(repair_input, keeps_records=repair_input.dense is not None))
    part = placement.part
    num_layers = sum(len(layers_of(repair_input.model, stack)) for stack in repair_input.architecture.stacks)
    passes = first_passes(repair_input)
    first = passes.num_batches
    total = first + num_layers * len(repair_input.calibration.batches[part])
    weights = fit_first(repair_input, passes, lambda done: repair_input.on_progress(done, total))
    weights = {path: weights_N[part] for path, weights_N in weights.items()}
    calibration = CalibrationBatches(repair_input.calibration.batches[part], repair_input.calibration.objective)
    on_states = repair_input.on_states if part == slice(None) else ignore_states
    layerwise = LayerwiseFit(
        replace(repair_input, calibration=calibration, on_states=on_states),
        dense,
        layers,
        copy_sharing_tensors(repair_input.model),
        weights,
        placement.place,
    )
    layerwise.fit(lambda done: repair_input.on_progress(first + done, total))


def _placement(repair_input: RepairInput, *, keeps_records: bool) -> Placement:
    """Where the hidden states are held, which of the batches are used, and how much room is left for records.

    They are held on the model's device where they fit into its free memory, else on the host. Where they do not fit
    there either, an evenly spaced part of the batches is used, since these may be sorted by length.
    """
    device, host = next(repair_input.model.parameters()).device, torch.device("cpu")
    needed, limits = state_bytes(repair_input), {place: budget(place) for place in (device, host)}
    for place, limit in limits.items():
        if needed <= limit:
            return Placement(place, slice(None), dense_layers.spare_bytes(limit, needed) if keeps_records else 0)
    step = max(1, -(-needed // max(1, limits[host])))
    count = len(repair_input.calibration.batches)
    used = -(-count // step)
    log.warning("no memory for the %d bytes of all hidden states: %d of %d batches are used", needed, used, count)
    return Placement(host, slice(None, None, step), 0)


def state_bytes(repair_input: RepairInput) -> int:
    """Bytes of the hidden states that the fit of a layer holds at once, of all batches.

    Held for every position, of each model: the state before a layer, behind it, and behind what its consumers add; the
    output of each consumer, and the input of one.
    """
    consumers = repair_input.consumers
    sizes = [weight_of(repair_input.model, consumer).shape for consumer in consumers]
    most = max(Counter(consumer.groups[0].site[:2] for consumer in consumers).values(), default=0)
    states = (6 + 2 * most) * max((outputs for outputs, _ in sizes), default=0) + max((c for _, c in sizes), default=0)
    positions = sum(
        max(mask_BT.numel() for mask_BT in batch.masks.values()) for batch in repair_input.calibration.batches
    )
    return positions * states * next(repair_input.model.parameters()).element_size()


@dataclass(frozen=True)
class LayerwiseFit:
    """The fit of all layers in turn of the model in `repair_input`, which `least_squares` has repaired.

    Every layer is run once in the dense model, unless an earlier repair has run it, and once for each of its consumers
    in a cut one, for the first of several up to that consumer. Held at once are the hidden states of the rows in each
    model, the outputs of a layer's consumers, one consumer's input, the weights of every consumer before and after, and
    one cut layer, or all of them in an encoder-decoder.
    """

    repair_input: RepairInput
    dense: nn.Module  # the model before any repair
    layers: DenseLayers  # what it writes
    slim: nn.Module  # a copy of the repaired model, to be cut
    weights: Mapping[str, Sequence[Tensor]]  # path of a consumer -> weights of its tokens (N), batch by batch
    place: torch.device  # where the hidden states are held between the layers

    def fit(self, on_batches: Callable[[int], None]) -> None:
        """Fit every consumer; `on_batches` is called with the number of batches done, over all layers."""
        consumers, batches, done = self.repair_input.consumers, self.repair_input.calibration.batches, 0
        if self._is_encoder_decoder:  # the encoder's output, which the decoder takes, depends on the widths
            cut(self.slim, self.repair_input.architecture, self.repair_input.kept, "per_layer")
        for stack in self.repair_input.architecture.stacks:
            dense_inputs, slim_inputs = self._stack_inputs(stack)
            slim_layers = self._cut_layers(stack)
            for index, layer in enumerate(layers_of(self.dense, stack)):
                own = [consumer for consumer in consumers if _is_fitted(consumer, stack, index)]
                dense_pass = LayerPass(layer, index, stack, self.repair_input.model.config, batches, self.place)
                before, records = dense_inputs, self.layers.records(dense_pass, dense_inputs, own)
                dense_inputs = _next_inputs(dense_inputs, records)
                if _stays(stack, index, self.repair_input.kept):
                    slim_pass = replace(dense_pass, layer=next(slim_layers))
                    slim_inputs = self._fit_layer(slim_pass, own, slim_inputs, before, records)
                done += len(batches)
                on_batches(done)
        if not self._is_encoder_decoder:
            self.repair_input.on_states([each.hidden_BTD for each in slim_inputs])

    @property
    def _is_encoder_decoder(self) -> bool:
        return len(self.repair_input.architecture.stacks) > 1

    def _fit_layer(
        self,
        slim_pass: LayerPass,
        consumers: Sequence[Consumer],
        inputs: list[LayerInput],
        dense_inputs: Sequence[LayerInput],
        dense_records: Sequence[LayerRecord],
    ) -> list[LayerInput]:
        """Fit the consumers of a cut layer in turn, there and in the model; returns the batches behind the layer.

        Where the first consumer is the first to add to the stream, the layer is run no further than to it.
        """
        records: list[LayerRecord] = []
        for number, consumer in enumerate(consumers):
            references = dense_records
            if number == 0 and len(consumers) > 1 and slim_pass.begins_with(consumers):
                records = _at_stream(slim_pass.run_to(consumer, inputs), slim_pass.streams_in_front(inputs))
                references = _at_stream(dense_records, slim_pass.streams_in_front(dense_inputs))
            else:
                records = list(slim_pass.run(inputs, consumers[number:]))
            module, weights = slim_pass.module(consumer), self.weights[consumer.path]
            fit = fit_to_stream(module, consumer, references, records, weights, slim_pass.added_times)
            fit = fit.rounded(self.repair_input.rounded_to)
            replace_weight(module, consumer, *fit)
            replace_kept_columns(self.repair_input.model, consumer, *fit)
        if not consumers or not slim_pass.output_is_stream or not slim_pass.ends_with(consumers[-1]):
            return _next_inputs(inputs, slim_pass.run(inputs, []))
        return _next_inputs(inputs, slim_pass.with_new_output(consumers[-1], records))

    def _stack_inputs(self, stack: Stack) -> tuple[list[LayerInput], list[LayerInput]]:
        """The batches in front of the stack, in the dense and in the cut model.

        In a model of one stack they are the same: nothing before the stack is cut, and the calls of the layers do not
        depend on weights.
        """
        batches = self.repair_input.calibration.batches
        inputs = self.layers.inputs(self.dense, stack, batches)
        if self._is_encoder_decoder:
            return inputs, stack_inputs(self.slim, stack, batches)
        stay = [
            index for index in range(len(layers_of(self.dense, stack))) if _stays(stack, index, self.repair_input.kept)
        ]
        return inputs, [each._replace(calls=[each.calls[index] for index in stay]) for each in inputs]

    def _cut_layers(self, stack: Stack) -> Iterator[nn.Module]:
        """The cut layers that stay.

        In a model of one stack each layer is cut just before it is fitted. A copy of the repaired whole layer then
        replaces it, so that no model is held in both sizes.
        """
        slim_layers, whole_layers = layers_of(self.slim, stack), layers_of(self.repair_input.model, stack)
        if self._is_encoder_decoder:
            yield from slim_layers
            return
        for index, layer in enumerate(slim_layers):
            if _stays(stack, index, self.repair_input.kept):
                own = {site: kept_K for site, kept_K in self.repair_input.kept.items() if site.layer == index}
                cut(self.slim, self.repair_input.architecture, own, "per_layer")
                yield layer
                slim_layers[index] = copy_sharing_tensors(whole_layers[index])


def _is_fitted(consumer: Consumer, stack: Stack, index: int) -> bool:
    """Whether a consumer of the layer is fitted to the residual stream: all whose output is a term of it."""
    group = consumer.groups[0]
    return group.is_added and group.site[:2] == (stack.name, index)


def _stays(stack: Stack, index: int, kept: Kept) -> bool:
    """Whether the cut model has the layer."""
    layer_K = kept.get(Site(stack.name, index, "layers"))
    return layer_K is None or layer_K.numel() > 0


def _at_stream(records: Iterable[LayerRecord], streams: Iterable[Tensor]) -> list[LayerRecord]:
    """The records with these residual streams in place of theirs."""
    return [record._replace(stream_ND=stream_ND) for record, stream_ND in zip(records, streams, strict=True)]


def _next_inputs(inputs: Sequence[LayerInput], records: Iterable[LayerRecord]) -> list[LayerInput]:
    """The batches in front of the next layer."""
    return [LayerInput(record.output_BTD, each.calls[1:]) for each, record in zip(inputs, records, strict=True)]
