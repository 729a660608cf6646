"""Parameters and bytes that a removal of units leaves, counted from the shapes of a checkpoint's tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.options import Repair, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method
from service.models.tensors.gemma4 import LAYER_SCALAR
from service.models.tensors.names import CORRECTION, StackNames
from service.planning.widths import Cut, cuts_at, is_set_by_ratio
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import (
    layer_position,
    layer_tensors,
    matches,
    unit_tensors_of,
    vocabulary_tensors,
)
from service.sources.safetensors_header import BYTES, Tensors, TensorShape, file_size
from service.sources.stored_experts import in_files

NO_PARAMETERS = ("final_logits_bias", LAYER_SCALAR, CORRECTION)  # ends of the names of tensors that are no parameters


@dataclass(frozen=True)
class Removal:
    """The outcome of removing a share of the units."""

    cuts: list[Cut]  # empty where scores decide the widths
    ratio: float  # removed share of the parameters of the chosen units
    parameters: int  # of the slim model
    bytes: int  # of its weight file


def removal_at(request: JobRequest, checkpoint: Checkpoint, ratio: float) -> Removal:
    """The outcome of a ratio. Raises TargetUnreachable where it leaves no units."""
    cuts = cuts_at(request, checkpoint, ratio)
    chosen, removed = count_chosen(request.method, checkpoint, cuts)
    slim = _slim_tensors(_with_biases(request, checkpoint), checkpoint, cuts)
    parameters, size = count_parameters(slim), file_size(in_files(slim, checkpoint.names.expert_files))
    if is_set_by_ratio(request):
        return Removal(cuts, removed / chosen, parameters, size)
    gone = round(ratio * chosen)
    return Removal(cuts, ratio, parameters - gone, size - gone * BYTES[checkpoint.dtype])


def count_chosen(method: Method, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> tuple[int, float]:
    """(parameters of the chosen units, parameters of them that the cuts remove)."""
    counts = [_count_in_stack(method, checkpoint, stack, cuts) for stack in checkpoint.names.stacks]
    if Unit.vocabulary in method.units:
        rows = sum(tensor.count for tensor in vocabulary_tensors(checkpoint).values())
        counts.append((rows, sum(rows * (1 - cut.share) for cut in cuts if cut.unit is Unit.vocabulary)))
    return sum(chosen for chosen, _ in counts), sum(removed for _, removed in counts)


def _count_in_stack(
    method: Method, checkpoint: Checkpoint, stack: StackNames, cuts: Sequence[Cut]
) -> tuple[int, float]:
    chosen, removed = 0, 0.0
    of_stack = {(cut.unit, cut.part): cut for cut in cuts if cut.stack.name == stack.name}
    of_layers = of_stack.get((Unit.layers, ""))
    layers_left = of_layers.slim if of_layers else math.inf
    for layer, path, tensor in layer_tensors(checkpoint, stack):
        if path.endswith(NO_PARAMETERS):
            continue
        rows = unit_tensors_of(stack, path, tensor, method.units)
        kept_share = (
            math.prod(of_stack[row.unit, row.part].share for row in rows) if cuts and layer < layers_left else 1.0
        )
        if Unit.layers in method.units:
            chosen += 0 if matches(stack.moves, path) else tensor.count
            removed += tensor.count if layer >= layers_left else 0
        elif rows:
            chosen += tensor.count
        removed += tensor.count * (1 - kept_share)
    return chosen, removed


def count_parameters(tensors: Tensors) -> int:
    """Parameters of the tensors; BART's zero bias and Gemma's numbers for whole layers are none."""
    return sum(tensor.count for name, tensor in tensors.items() if not name.endswith(NO_PARAMETERS))


def has_bias(request: JobRequest, checkpoint: Checkpoint, stack: StackNames) -> bool:
    """Whether a module of the stack that reads units of the request has a bias once the repair has given it one."""
    tensors = _with_biases(request, checkpoint)
    consumers = [
        next(row for row in stack.unit_tensors if row.unit is unit and row.part == part)
        for unit in request.method.units
        if any(row.unit is unit for row in stack.unit_tensors)
        for part in stack.parts(unit)
    ]
    return any(
        f"{name.removesuffix('weight')}bias" in tensors
        for name in checkpoint.tensors
        for position in [layer_position(name, stack)]
        for row in consumers
        if position and name.endswith(".weight") and matches(row.pattern, position[1])
    )


def _slim_tensors(tensors: Tensors, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> dict[str, TensorShape]:
    """The tensors of the slim checkpoint. Layers of a stack are alike but for first ones that stay, so the last ones
    are taken to be removed."""
    found: dict[str, TensorShape] = {}
    for name, tensor in tensors.items():
        shape = _slim_shape(name, tensor, cuts)
        if shape is not None:
            slim = TensorShape(tensor.dtype, shape)
            found[name] = slim if name.endswith(CORRECTION) else slim.cast(checkpoint.dtype)
    return found


def _slim_shape(name: str, tensor: TensorShape, cuts: Sequence[Cut]) -> tuple[int, ...] | None:
    """The shape of a tensor after the cuts; None for a tensor of a removed layer."""
    shape = list(tensor.shape)
    for cut in cuts:
        position = layer_position(name, cut.stack)
        if position is None:
            continue
        layer, path = position
        if cut.unit is Unit.layers and layer >= cut.slim:
            return None
        for row in unit_tensors_of(cut.stack, path, tensor, [cut.unit]):
            if row.part == cut.part:
                shape[row.dim] = shape[row.dim] * cut.slim // cut.dense
    return tuple(shape)


def _with_biases(request: JobRequest, checkpoint: Checkpoint) -> dict[str, TensorShape]:
    """The tensors, and the biases that the repair `bias` adds to the feed-forward modules that have none."""
    found = dict(checkpoint.tensors)
    if request.method.repair is not Repair.bias:
        return found
    for stack in checkpoint.names.stacks:
        if not stack.bias or checkpoint.config.get(stack.bias):
            continue
        for name, tensor in checkpoint.tensors.items():
            position = layer_position(name, stack)
            if position and name.endswith(".weight") and unit_tensors_of(stack, position[1], tensor, [Unit.ffn]):
                found[f"{name.removesuffix('weight')}bias"] = TensorShape(tensor.dtype, tensor.shape[:1])
    return found
