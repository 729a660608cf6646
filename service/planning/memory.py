"""The memory that a job takes on its device, and how often it passes its calibration rows, before it starts.

The worker holds second moments in portions that take at most `FREE_SHARE` of the memory that the weights leave. Each
portion takes a pass of its own over the rows (`worker.slimming.scoring.second_moments`). The figures suppose that
nothing else is on the device. tests/service/planning/test_memory.py compares them with what scoring and repair take.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.contract.answers.catalog import DeviceMemory, Memory
from service.contract.criteria import CRITERIA, Criterion
from service.contract.options import FITTED, Repair, Unit
from service.contract.request.job_request import JobRequest
from service.models.tensors.names import EXPERT_NEURONS, StackNames, UnitTensors
from service.planning.removal import count_parameters
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import layer_tensors, unit_tensors_of
from service.sources.safetensors_header import BYTES

FREE_SHARE = 0.5  # as `worker.slimming.free_memory` has it
GIB = 2**30
DEVICES = (8 * GIB, 16 * GIB, 24 * GIB, 40 * GIB, 80 * GIB, 141 * GIB)  # memory of common devices
READ_BY_LINEAR = (Unit.ffn, Unit.heads, Unit.head_dims)  # units that are the input of a linear module
NO_INPUT = (Unit.layers, Unit.head_dims)  # units some of which are no such input: scores without second moments
SINGLE, DOUBLE = 4, 8  # bytes of a number
ELIMINATED = 3  # matrices of float64, for the elimination of the units of one layer or the fit of its weights
# What a backward pass keeps of each token in a layer: numbers as wide as the hidden states, and as the neurons.
KEPT_HIDDEN, KEPT_NEURONS = 12, 5
HELD_STATES, STATES_OF_CONSUMER = 6, 2  # hidden states of a token that the layerwise repair holds


@dataclass(frozen=True)
class Consumer:
    """The linear module that reads the units of a layer: its layer, inputs and outputs."""

    layer: tuple[str, int]
    inputs: int
    outputs: int

    def matrix_bytes(self, *, effects: bool) -> int:
        """Bytes of the second moments of its input, and with `effects` of those of its output gradients."""
        return SINGLE * (self.inputs**2 + (self.outputs**2 if effects else 0))


def memory_of(request: JobRequest, checkpoint: Checkpoint, tokens_per_batch: int) -> Memory:
    """The memory of a job whose batches have `tokens_per_batch` tokens at most."""
    need = Need.of(request, checkpoint, tokens_per_batch)
    method = request.method
    is_layerwise = method.repair is Repair.least_squares_layerwise and bool(need.consumers)
    return Memory(
        weights=need.weights,
        cpu_weights=max(SINGLE, BYTES[checkpoint.dtype]) * count_parameters(checkpoint.tensors),
        streamed_on_cpu=is_streamed_on_cpu(checkpoint),
        matrices=sum(need.matrices(effects=need.has_effects)) if need.has_matrices else 0,
        batch=need.batch,
        state_per_token=_state_bytes(need.consumers) * BYTES[checkpoint.dtype] if is_layerwise else 0,
        devices=[need.on(device) for device in DEVICES],
    )


def is_streamed_on_cpu(checkpoint: Checkpoint) -> bool:
    """Whether a worker streams the model where its weights are large, as `can_stream` of the worker says."""
    return len(checkpoint.names.stacks) == 1 and not checkpoint.config.get("num_kv_shared_layers")


@dataclass(frozen=True)
class Need:
    """What a job has to hold, in bytes, and what decides its passes."""

    request: JobRequest
    consumers: Sequence[Consumer]
    weights: int
    batch: int

    @classmethod
    def of(cls, request: JobRequest, checkpoint: Checkpoint, tokens_per_batch: int) -> "Need":
        """The need of a request for a checkpoint."""
        consumers, number = list(_consumers(request, checkpoint)), BYTES[checkpoint.dtype]
        batch = tokens_per_batch * number * _kept_per_token(request, checkpoint)
        return cls(request, consumers, number * count_parameters(checkpoint.tensors), batch)

    @property
    def has_effects(self) -> bool:
        """Whether the criterion needs second moments, those of output gradients included."""
        return self.request.method.criterion is Criterion.surgeon

    @property
    def has_matrices(self) -> bool:
        """Whether the criterion or the repair needs second moments."""
        return self.has_effects or self.request.method.repair in FITTED

    def matrices(self, *, effects: bool) -> list[int]:
        """Bytes of the second moments of each consumer, in the order in which the worker holds them."""
        return [consumer.matrix_bytes(effects=effects) for consumer in self.consumers]

    def on(self, device_bytes: int) -> DeviceMemory:
        """The passes over the calibration rows, and the peak, on a device with this much memory."""
        free = device_bytes - self.weights
        if free <= 0:
            return DeviceMemory(device=device_bytes, holds_weights=False)
        scoring, repair = self._scoring(free), self._repair(free)
        passes = self._scoring_passes(scoring), self._repair_passes(scoring, repair)
        held = max(map(sum, [*(scoring if self.has_effects else []), *repair]), default=0)
        return DeviceMemory(
            device=device_bytes,
            holds_weights=True,
            scoring_passes=passes[0],
            repair_passes=passes[1],
            peak=self.weights + held + max(self.batch, self._solved),
        )

    def _scoring(self, free: int) -> list[list[int]]:
        return portions(self.matrices(effects=True), int(FREE_SHARE * free))

    def _repair(self, free: int) -> list[list[int]]:
        if self.request.method.repair not in FITTED:
            return []
        return portions(self.matrices(effects=False), int(FREE_SHARE * free))

    def _scoring_passes(self, parts: Sequence[Sequence[int]]) -> int:
        method = self.request.method
        if self.has_effects:
            others = any(unit in NO_INPUT for unit in method.scored_units)
            return method.steps * (len(parts) + others)
        return method.steps if CRITERIA[method.criterion].reads_data and method.scored_units else 0

    def _repair_passes(self, scoring: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]) -> int:
        """Passes that measure what the repair fits to; none where scoring has measured it and held all of it."""
        if self.request.method.repair is Repair.bias:
            return 1
        is_measured = self.has_effects and len(scoring) == 1 and not self.request.tasks and not self.request.recovery
        return 0 if is_measured else len(parts)

    @property
    def _solved(self) -> int:
        """The greatest matrices that an elimination or a fit makes, beside the sums."""
        widest = max((consumer.inputs for consumer in self.consumers), default=0)
        return ELIMINATED * DOUBLE * widest**2 if self.has_matrices else 0


def portions(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """The sizes in order, in portions of `limit` bytes at most; a larger one is a portion alone."""
    parts = list[list[int]]()
    for size in sizes:
        if not parts or sum(parts[-1]) + size > limit:
            parts.append([])
        parts[-1].append(size)
    return parts


def _consumers(request: JobRequest, checkpoint: Checkpoint) -> Iterator[Consumer]:
    """The consumers of the units that the request removes, layer by layer.

    The neurons of experts are scored without second moments, and their experts are fitted one by one.
    """
    units = [unit for unit in READ_BY_LINEAR if unit in request.method.units]
    for stack in checkpoint.names.stacks:
        found = list[Consumer]()
        for row in _first_of_parts(stack, units):
            for layer, path, tensor in layer_tensors(checkpoint, stack):
                if row in unit_tensors_of(stack, path, tensor, [row.unit]):
                    found.append(Consumer((stack.name, layer), tensor.shape[row.dim], tensor.shape[1 - row.dim]))
        yield from sorted(found, key=lambda consumer: consumer.layer[1])


def _first_of_parts(stack: StackNames, units: Sequence[Unit]) -> list[UnitTensors]:
    """The tensors that read the units, those of experts aside: the first of each part of a unit."""
    first: dict[tuple[Unit, str], UnitTensors] = {}
    for unit in units:
        for row in stack.unit_tensors:
            if row.unit is unit and row.part != EXPERT_NEURONS:
                first.setdefault((unit, row.part), row)
    return list(first.values())


def _kept_per_token(request: JobRequest, checkpoint: Checkpoint) -> int:
    """Numbers that a pass keeps of each token: a backward pass those of all layers, a forward pass those of one."""
    found: dict[tuple[str, int], int] = {}
    for stack in checkpoint.names.stacks:
        hidden = checkpoint.number(checkpoint.names.hidden_size, stack)
        for layer, path, tensor in layer_tensors(checkpoint, stack):
            numbers = found.setdefault((stack.name, layer), KEPT_HIDDEN * hidden)
            rows = [row for row in unit_tensors_of(stack, path, tensor, [Unit.ffn]) if len(tensor.shape) > 1]
            if rows:
                found[stack.name, layer] = max(numbers, KEPT_HIDDEN * hidden + KEPT_NEURONS * tensor.shape[rows[0].dim])
    method = request.method
    has_gradients = CRITERIA[method.criterion].has_objective or method.repair in FITTED
    return sum(found.values()) if has_gradients else max(found.values(), default=0)


def _state_bytes(consumers: Sequence[Consumer]) -> int:
    """Numbers that the layerwise repair holds of each token (`worker.slimming.repair.layerwise.state_bytes`)."""
    most = max(sum(other.layer == consumer.layer for other in consumers) for consumer in consumers)
    outputs, inputs = max(each.outputs for each in consumers), max(each.inputs for each in consumers)
    return (HELD_STATES + STATES_OF_CONSUMER * most) * outputs + inputs
