"""How many layers, neurons and heads a checkpoint has, read from its config and the shapes of its tensors."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from service.contract.errors import InvalidModel
from service.contract.options import Unit
from service.models.tensors.modules import layer_kinds
from service.models.tensors.names import SHARED_NEURONS, StackNames, UnitTensors
from service.sources.checkpoint import MAX_UNITS, Checkpoint
from service.sources.safetensors_header import TensorShape

POSITION_BIAS = ".relative_attention_bias.weight"  # an embedding within a layer
CACHED_NAMES = 2**14  # tensor names are few, and each submission looks at them several times


def num_layers(checkpoint: Checkpoint, stack: StackNames) -> int:
    """Layers of a stack. Raises InvalidModel if the weights hold none."""
    layers = {layer for layer, _, _ in layer_tensors(checkpoint, stack)}
    if not layers:
        message = (
            f"the weights hold no layers of the {stack.name}, which the family {checkpoint.family.model_type} needs"
        )
        raise InvalidModel(message, param="model.uri")
    return len(layers)


def parts_of(checkpoint: Checkpoint, stack: StackNames, unit: Unit) -> list[str]:
    """The parts of a unit that the layers of a stack have."""
    parts = stack.parts(unit)
    return parts if len(parts) == 1 else [part for part in parts if _widths(checkpoint, stack, part)]


def ffn_width(checkpoint: Checkpoint, stack: StackNames, part: str) -> int:
    """Feed-forward neurons of a part in each layer of a stack: in each block, or expert. Raises InvalidModel if the
    layers differ."""
    blocks = _number(checkpoint, checkpoint.names.shared_experts, stack) if part == SHARED_NEURONS else 1
    widths = _widths(checkpoint, stack, part)
    if len(widths) != 1 or not 0 < max(widths) <= MAX_UNITS or max(widths) % blocks:
        message = f"the layers of the {stack.name} do not have one width of at most {MAX_UNITS}"
        raise InvalidModel(message, param="model.uri")
    return widths.pop() // blocks


def _widths(checkpoint: Checkpoint, stack: StackNames, part: str) -> set[int]:
    """The numbers of neurons of a part in the layers of a stack; 0 where a tensor has too few dimensions."""
    row = next(row for row in stack.unit_tensors if row.unit is Unit.ffn and row.part == part)
    shapes = [tensor.shape for _, path, tensor in layer_tensors(checkpoint, stack) if matches(row.pattern, path)]
    return {shape[row.dim] if row.dim < len(shape) else 0 for shape in shapes}


def ffn_widths(checkpoint: Checkpoint) -> list[int]:
    """The feed-forward neurons in each layer of every stack, of each part. Raises as `ffn_width`."""
    return [
        ffn_width(checkpoint, stack, part)
        for stack in checkpoint.names.stacks
        for part in parts_of(checkpoint, stack, Unit.ffn)
    ]


def head_counts(checkpoint: Checkpoint, stack: StackNames) -> tuple[int, int]:
    """(query heads, key-value heads) of a layer. Raises InvalidModel if the second does not divide the first."""
    names = checkpoint.names
    heads = checkpoint.number(names.heads, stack)
    has_groups = checkpoint.value(names.key_value_heads, stack) is not None
    groups = checkpoint.number(names.key_value_heads, stack) if has_groups else heads
    if heads % groups:
        message = f"config.json has {heads} heads and {groups} key-value heads, which do not divide them"
        raise InvalidModel(message, param="model.uri")
    return heads, groups


def head_size(checkpoint: Checkpoint, stack: StackNames) -> int:
    """Dimensions of an attention head."""
    names = checkpoint.names
    if checkpoint.value(names.head_size, stack) is not None:
        return checkpoint.number(names.head_size, stack)
    return checkpoint.number(names.hidden_size, stack) // checkpoint.number(names.heads, stack)


def expert_count(checkpoint: Checkpoint, stack: StackNames) -> int:
    """Experts in each layer of a stack."""
    return checkpoint.number(checkpoint.names.experts, stack)


def can_route(checkpoint: Checkpoint, stack: StackNames, experts: int) -> bool:
    """Whether the stock router can choose among so many experts: `worker.slimming.units.experts` has the same rule."""
    names = checkpoint.names
    if not names.expert_groups:
        return True
    groups, chosen = (_number(checkpoint, field, stack) for field in (names.expert_groups, names.chosen_groups))
    in_group = experts // groups
    is_enough = chosen == groups or in_group * chosen >= checkpoint.number(names.experts_per_token, stack)
    return experts % groups == 0 and in_group >= 2 and is_enough


def _number(checkpoint: Checkpoint, field: str, stack: StackNames) -> int:
    """The number in a config field; 1 for a family without the field."""
    return checkpoint.number(field, stack) if field else 1


def vocabulary_rows(checkpoint: Checkpoint) -> int:
    """Rows of the input embedding. Raises InvalidModel if the weights hold none."""
    tensor = checkpoint.tensors.get(checkpoint.names.embedding)
    if tensor is None:
        message = f"the weights hold no {checkpoint.names.embedding}, which the family needs"
        raise InvalidModel(message, param="model.uri")
    return tensor.shape[0]


def vocabulary_tensors(checkpoint: Checkpoint) -> dict[str, TensorShape]:
    """The tensors with a row for each token."""
    names = checkpoint.names
    weights = (names.embedding, *names.further_embeddings, *names.tied)
    biases = tuple(f"{name.removesuffix('weight')}bias" for name in names.tied)
    return {name: checkpoint.tensors[name] for name in (*weights, *biases) if name in checkpoint.tensors}


def caching_layers(checkpoint: Checkpoint) -> int:
    """Layers of the last stack that cache keys and values; one of linear attention has a state of one size instead."""
    layers = num_layers(checkpoint, checkpoint.last_stack)
    has_others = any(".linear_attn." in name for name in checkpoint.tensors)
    return layer_kinds(checkpoint.config, layers).count("full_attention") if has_others else layers


def key_rows(checkpoint: Checkpoint) -> int:
    """Numbers in the keys of all layers of the last stack for one token, where its layers differ in them."""
    tensors = layer_tensors(checkpoint, checkpoint.last_stack)
    return sum(tensor.shape[0] for _, path, tensor in tensors if path == "self_attn.k_proj.weight")


def row_lengths(checkpoint: Checkpoint) -> set[int]:
    """The lengths of the rows of the weight matrices in the layers of every stack."""
    return {
        tensor.shape[1]
        for stack in checkpoint.names.stacks
        for _, path, tensor in layer_tensors(checkpoint, stack)
        if len(tensor.shape) == 2 and path.endswith(".weight") and not path.endswith(POSITION_BIAS)
    }


def layer_tensors(checkpoint: Checkpoint, stack: StackNames) -> Iterator[tuple[int, str, TensorShape]]:
    """(layer, path in the layer, tensor) of every tensor in the layers of a stack."""
    for name, tensor in checkpoint.tensors.items():
        if position := layer_position(name, stack):
            yield *position, tensor


def layer_position(name: str, stack: StackNames) -> tuple[int, str] | None:
    """(layer, path in the layer) of a tensor; None if it is in no layer of the stack."""
    return _position_below(stack.layers, name)


def unit_tensors_of(stack: StackNames, path: str, tensor: TensorShape, units: Iterable[Unit]) -> list[UnitTensors]:
    """The rows of the family's table that say in which dimension a tensor shrinks with the units."""
    rows = (row for row in stack.unit_tensors if row.unit in units and row.dim < len(tensor.shape))
    return [row for row in rows if matches(row.pattern, path)]


@lru_cache(maxsize=CACHED_NAMES)
def matches(pattern: str, path: str) -> bool:
    """Whether the pattern matches the whole path."""
    return re.fullmatch(pattern, path) is not None


@lru_cache(maxsize=CACHED_NAMES)
def _position_below(layers: str, name: str) -> tuple[int, str] | None:
    match = re.fullmatch(rf"(?:.*\.)?{re.escape(layers)}\.(\d{{1,4}})\.(.+)", name)
    return (int(match[1]), match[2]) if match else None
