"""The units of a loaded model, in groups: finds the modules that a row of `architectures` names.

A group is the set of units that share one width, for example the neurons of one layer. A unit is a slice of each of
several parameters, and is removed by removing these slices.

Shape suffixes: U units of a group, F parameters of one unit, K units that stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Attention, Experts, FeedForward, Stack


class UnitUnavailable(ValueError):
    """Raised for a unit of which a stock config of the family cannot hold fewer."""


class Site(NamedTuple):
    """The name of a group. `str(site)`, such as "decoder.3.ffn", is the key of its tensor in files.

    `unit` tells apart groups of one kind in a layer: "heads" and "cross_heads" are both of the API's unit `heads`.
    """

    stack: str
    layer: int
    unit: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.layer}.{self.unit}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The site whose string form is `key`."""
        stack, layer, unit = key.split(".")
        return cls(stack, int(layer), unit)


# The widths of experts are multiples of this: grouped matrix products, by which stock classes compute them, take rows
# of a multiple of 16 bytes, which are 8 numbers of half precision.
EXPERT_STEP = 8
VOCABULARY = Site("model", 0, "vocabulary")  # the rows of embedding and head, which belong to no layer

# Site of a group -> the scores of its units (U).
Scores = Mapping[Site, Tensor]

# Site of a group -> the sorted indices of its units that stay (K). Groups that it does not name stay whole.
Kept = Mapping[Site, Tensor]


class ParameterSlice(NamedTuple):
    """The part of a parameter that belongs to the units of a group.

    Unit i has the indices from `start + i * size` to `start + (i + 1) * size` along `dim`. With `by_row` the parameter
    has an entry for each row of the group along its first dimension, and i is the number of the unit in its row.
    """

    parameter: str
    dim: int
    size: int
    start: int = 0
    by_row: bool = False


@dataclass(frozen=True)
class Group:
    """The units of one site, each of which can be removed alone. Paths are relative to the model.

    The activation of the units is observed at `module`, as `hook_point` says: the input or the output of the module,
    what a layer adds to the residual stream, what each of the experts in the module adds to its output, or the neurons
    within these experts. The first of `slices` is a part of the weight that is multiplied with the activation. The rows
    of the vocabulary are not observed. In a checkpoint for stock transformers, groups with the same `fields` keep the
    same number of units in each row.
    """

    site: Site
    kind: str  # the unit of the API: ffn, heads, head_dims, layers, experts or vocabulary
    count: int  # units
    parameters: int  # weights and biases of one unit
    slices: tuple[ParameterSlice, ...]
    module: str  # path of the module at which the activation is observed
    # "residual": output minus input of a layer; "none": not observed
    hook_point: Literal["input", "output", "residual", "experts", "expert neurons", "none"]
    size: int  # channels of the activation of a unit
    fields: tuple[tuple[str, int], ...]  # config fields, and what one kept unit adds to the value of each
    rows: int = 1  # the units form this many rows of equal length, and each row keeps the same number
    tie: str = ""  # groups with the same tie keep the same indices
    level: str = ""  # groups with the same level keep the same number of units in every layout
    allowed: tuple[int, ...] = ()  # numbers of units that the config can hold; empty: every number
    step: int = 1  # each row keeps a multiple of so many units
    within: str = ""  # unit of the site, in the same layer, whose units contain those of this group
    is_added: bool = True  # whether the output of the module is added to the residual stream as it is
    buffers: tuple[ParameterSlice, ...] = ()  # of tensors of the model that are no parameters
    router: str = ""  # path of the module that sends each token to some of the units
    # Paths of the module that reads the residual stream before the experts, and of the one whose output it is behind.
    stream: tuple[str, str] = ("", "")
    # Config fields that are no more than the number of units that stay, and the value of each in the whole model.
    limited: tuple[tuple[str, int], ...] = ()


def locate(model: nn.Module, architecture: Architecture, units: Sequence[str]) -> list[Group]:
    """The groups of the given units in the model, layer by layer, the vocabulary last. Raises UnitUnavailable."""
    in_layers = [
        group
        for stack in architecture.stacks
        for layer in range(num_layers(model, stack))
        for unit in units
        if unit != VOCABULARY.unit
        for group in UNITS[unit](model, stack, layer)
    ]
    return [*in_layers, *([_vocabulary(model)] if VOCABULARY.unit in units else [])]


def num_layers(model: nn.Module, stack: Stack) -> int:
    """The number of layers in the stack."""
    return len(layers_of(model, stack))


def layers_of(model: nn.Module, stack: Stack) -> nn.ModuleList:
    """The layers of the stack."""
    layers = model.get_submodule(stack.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def module_after_first(model: nn.Module, stack: Stack) -> nn.Module | None:
    """The module that follows the first layer of the stack alone; None where there is none."""
    path, _, name = stack.after_first.rpartition(".")
    found = getattr(model.get_submodule(path), name) if name else None
    assert found is None or isinstance(found, nn.Module)
    return found


def _config(model: nn.Module) -> Any:
    return model.config


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer of the model."""
    path, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(path), leaf)
    assert isinstance(found, Tensor)
    return found


def weights_UF(group: Group, parameters: Callable[[str], Tensor]) -> tuple[Tensor, ...]:
    """The weights of each unit, one tensor per matrix in the order of the slices; `parameters` maps name to tensor."""
    if group.hook_point == "residual":
        return tuple(parameters(part.parameter).reshape(1, -1) for part in group.slices)
    matrices = ((part, parameters(part.parameter)) for part in group.slices)
    return tuple(_unit_weights(group, part, matrix) for part, matrix in matrices if matrix.dim() > 1 + part.by_row)


def _unit_weights(group: Group, part: ParameterSlice, matrix: Tensor) -> Tensor:
    """The weights of each unit in one matrix, or in one of each row (U, F)."""
    length = group.count // (group.rows if part.by_row else 1) * part.size
    first = int(part.by_row)
    slices = matrix.movedim(part.dim, first).narrow(first, part.start, length)
    return slices.reshape(group.count, -1)


# --- feed-forward neurons ------------------------------------------------------------------------------------------


def _neurons(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    row = stack.experts
    if row is None or not _has(model, f"{stack.layers}.{layer}.{row.experts}"):
        return [_block_neurons(model, stack, layer, stack.feed_forward, "ffn")]
    shared, routed = row.shared, _expert_neurons(model, stack, layer, row)
    if shared is None or (shared.blocks and not getattr(stack.config_in(_config(model)), shared.blocks)):
        return [routed]
    return [routed, _block_neurons(model, stack, layer, shared, "shared_ffn")]


def _has(model: nn.Module, path: str) -> bool:
    try:
        return bool(model.get_submodule(path))
    except AttributeError:
        return False


def _block_neurons(model: nn.Module, stack: Stack, layer: int, row: FeedForward, unit: str) -> Group:
    """The neurons of a block of linear modules."""
    block, config = f"{stack.layers}.{layer}", stack.config_in(_config(model))
    inputs, outputs = (0, 1) if row.transposed else (1, 0)
    contract = f"{block}.{row.contract}"
    count = model.get_parameter(f"{contract}.weight").shape[inputs]
    slices = [ParameterSlice(f"{contract}.weight", inputs, 1)]
    for path in _expand(row, config):
        for half in range(2 if row.fused else 1):
            slices += _rows(model, f"{block}.{path}", outputs, 1, start=half * count)
    return Group(
        site=Site(stack.name, layer, unit),
        kind="ffn",
        count=count,
        parameters=_parameters(model, slices),
        slices=tuple(slices),
        module=contract,
        hook_point="input",
        size=1,
        fields=((stack.field(row.width), 1),),
        rows=int(getattr(config, row.blocks)) if row.blocks else 1,
        step=EXPERT_STEP if row.blocks else 1,  # blocks have the width of the experts beside them
        is_added=row.added,
    )


def _expand(row: FeedForward, config: Any) -> tuple[str, ...]:
    return row.expand_gated if row.expand_gated and config.is_gated_act else row.expand


def _rows(model: nn.Module, path: str, dim: int, size: int, start: int = 0) -> list[ParameterSlice]:
    """The slices of units that are outputs of a linear module: of its weight, and of its bias if it has one."""
    slices = [ParameterSlice(f"{path}.weight", dim, size, start)]
    if model.get_submodule(path).bias is not None:
        slices.append(ParameterSlice(f"{path}.bias", 0, size, start))
    return slices


def _parameters(model: nn.Module, slices: Sequence[ParameterSlice]) -> int:
    return sum(_parameters_in(model.get_parameter(part.parameter), part) for part in slices)


def _parameters_in(parameter: Tensor, part: ParameterSlice) -> int:
    units = parameter.shape[part.dim] * (parameter.shape[0] if part.by_row else 1)
    return parameter.numel() // units * part.size


# --- attention -----------------------------------------------------------------------------------------------------


def _heads(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    return [_head_group(model, stack, layer, row) for row in _attention(stack)]


def _attention(stack: Stack) -> tuple[Attention, ...]:
    if not stack.attention:
        raise UnitUnavailable("a stock config of this family cannot hold fewer heads")
    return stack.attention


def _head_group(model: nn.Module, stack: Stack, layer: int, row: Attention) -> Group:
    """The heads of a layer; with grouped queries a unit is a key-value head and the query heads that share it."""
    block, config = f"{stack.layers}.{layer}", stack.config_in(_config(model))
    size, heads, count = _head_counts(model, block, row, config)
    shared = heads // count
    slices = [ParameterSlice(f"{block}.{row.output}.weight", 1, shared * size)]
    start = 0
    for path, width in ((row.query, shared * size), (row.key, size), (row.value, size)):
        slices += _rows(model, f"{block}.{path}", 0, width, start)
        start += count * width if row.fused else 0
    if row.position_bias and (layer == 0 or not row.shares_position_bias):
        slices.append(ParameterSlice(f"{block}.{row.position_bias}.weight", 1, 1))
    fields = {stack.field(row.key_value_heads): 1} | {stack.field(row.heads): shared}
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}heads"),
        kind="heads",
        count=count,
        parameters=_parameters(model, slices),
        slices=tuple(slices),
        module=f"{block}.{row.output}",
        hook_point="input",
        size=shared * size,
        fields=tuple(fields.items()),
        # T5 computes the position bias of all layers in the first layer; cross-attention has none.
        tie=f"{stack.name}.heads" if row.position_bias and row.shares_position_bias else "",
        # Where a layer has two kinds of attention, one field of its config holds the number of heads of both.
        level=stack.field(row.heads) if row.free_size or len(stack.attention) > 1 else "",
        allowed=tuple(kept for kept in range(1, count + 1) if _holds(config, row, kept * shared)),
    )


def _head_counts(model: nn.Module, block: str, row: Attention, config: Any) -> tuple[int, int, int]:
    """(size of a head, query heads, key-value heads) of one layer, from the shapes of its matrices."""
    size = head_size(config, row)
    query = model.get_parameter(f"{block}.{row.output}.weight").shape[1]
    key = model.get_parameter(f"{block}.{row.key}.weight").shape[0]
    return size, query // size, ((key - query) // 2 if row.fused else key) // size


def head_size(config: Any, row: Attention) -> int:
    """The number of dimensions of a head; configs may leave it out where it is hidden size by head count."""
    size = getattr(config, row.head_size, None) or config.hidden_size // getattr(config, row.heads)
    return int(size)


def _holds(config: Any, row: Attention, heads: int) -> bool:
    divides = any(getattr(config, field, False) for field in row.divides_where)
    return not divides or int(config.hidden_size) % heads == 0


def _head_dims(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    rows = [row for row in stack.attention if row.free_size]
    if not rows:
        raise UnitUnavailable("rotary positions or a stock config tie the dimensions of a head to each other")
    return [_dimension_group(model, stack, layer, row, role) for row in rows for role in ("query", "value")]


def _dimension_group(model: nn.Module, stack: Stack, layer: int, row: Attention, role: str) -> Group:
    """The dimensions of all heads of a layer, of queries and keys or of values; every head keeps the same number."""
    block = f"{stack.layers}.{layer}"
    size, heads, _ = _head_counts(model, block, row, stack.config_in(_config(model)))
    query, key, value, output = (f"{block}.{path}" for path in (row.query, row.key, row.value, row.output))
    if role == "query":
        slices = [*_rows(model, query, 0, 1), *_rows(model, key, 0, 1)]
    else:
        slices = [ParameterSlice(f"{output}.weight", 1, 1), *_rows(model, value, 0, 1)]
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}{role}_dims"),
        kind="head_dims",
        count=heads * size,
        parameters=_parameters(model, slices),
        slices=tuple(slices),
        module=query if role == "query" else output,
        hook_point="output" if role == "query" else "input",
        size=1,
        fields=((stack.field(row.head_size), 1),),
        rows=heads,
        level=row.head_size,
        within=f"{row.prefix}heads",
    )


# --- layers --------------------------------------------------------------------------------------------------------


def _layers(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """A layer as a group of one unit; it is ranked against the other layers of its stack."""
    if not stack.removable:
        raise UnitUnavailable("the stock class of this family fails without some of its layers")
    block, config = f"{stack.layers}.{layer}", stack.config_in(_config(model))
    # A shared position bias is not removed with the layer, but moved to the next one.
    shared = tuple(row.position_bias for row in stack.attention if row.position_bias and row.shares_position_bias)
    names = [name for name, _ in model.get_submodule(block).named_parameters() if not name.startswith(shared)]
    slices = tuple(ParameterSlice(f"{block}.{name}", 0, 1) for name in names)
    parameters = {name for name, _ in model.get_submodule(block).named_parameters()}
    stored = model.get_submodule(block).state_dict()
    return [
        Group(
            site=Site(stack.name, layer, "layers"),
            kind="layers",
            count=1,
            parameters=sum(model.get_parameter(part.parameter).numel() for part in slices),
            slices=slices,
            module=block,
            hook_point="residual",
            size=int(config.hidden_size),
            fields=((stack.field(stack.layer_count), 1),),
            buffers=tuple(ParameterSlice(f"{block}.{name}", 0, 1) for name in stored if name not in parameters),
        )
    ]


# --- experts -------------------------------------------------------------------------------------------------------


def _experts(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """The experts of a layer, each with its row of the router; nothing of a layer without experts."""
    row = stack.experts
    if row is None:
        raise UnitUnavailable("the layers of this family have no experts")
    block, config = f"{stack.layers}.{layer}", stack.config_in(_config(model))
    experts, router = f"{block}.{row.experts}", f"{block}.{row.router}"
    if not _has(model, experts):
        return []
    names = [f"{path}.{name}" for path in (experts, router) for name, _ in model.get_submodule(path).named_parameters()]
    slices = tuple(ParameterSlice(name, 0, 1) for name in names)
    count = model.get_parameter(f"{router}.weight").shape[0]
    return [
        Group(
            site=Site(stack.name, layer, "experts"),
            kind="experts",
            count=count,
            parameters=_parameters(model, slices),
            slices=slices,
            module=experts,
            hook_point="experts",
            size=int(config.hidden_size),
            fields=((stack.field(row.count), num_groups(config, row)),),
            rows=num_groups(config, row),
            allowed=tuple(kept for kept in range(1, count + 1) if _routes(config, row, kept)),
            router=router,
            stream=(f"{block}.{row.norm}", block),
            limited=((stack.field(row.per_token), int(getattr(config, row.per_token))),),
            buffers=tuple(ParameterSlice(f"{router}.{name}", 0, 1) for name in row.buffers),
        )
    ]


def num_groups(config: Any, row: Experts) -> int:
    """The number of groups that the experts of a layer form."""
    return int(getattr(config, row.groups)) if row.groups else 1


def _routes(config: Any, row: Experts, experts: int) -> bool:
    """Whether the stock router can choose among so many experts.

    A router of groups adds up the two best experts of each, so that each has two or more. Where a token is not sent to
    experts of all groups, those of the chosen ones have to be enough.
    """
    if not row.groups:
        return True
    groups, chosen = num_groups(config, row), int(getattr(config, row.chosen_groups))
    is_enough = chosen == groups or experts // groups * chosen >= int(getattr(config, row.per_token))
    return experts % groups == 0 and experts // groups >= 2 and is_enough


def _expert_neurons(model: nn.Module, stack: Stack, layer: int, row: Experts) -> Group:
    """The neurons of all experts of a layer, one row for each expert; every expert keeps the same number of its own."""
    path, neurons = f"{stack.layers}.{layer}.{row.experts}", row.neurons
    inputs, outputs = (1, 2) if neurons.transposed else (2, 1)
    experts, width = (model.get_parameter(f"{path}.down_proj").shape[dim] for dim in (0, inputs))
    slices = [ParameterSlice(f"{path}.down_proj", inputs, 1, by_row=True)]
    for name, _ in model.get_submodule(path).named_parameters():
        if name.startswith("gate_up_proj"):
            dim = 1 if name.endswith("bias") else outputs
            starts, size = ((0,), 2) if neurons.interleaved else ((0, width), 1)
            slices += [ParameterSlice(f"{path}.{name}", dim, size, start, by_row=True) for start in starts]
    return Group(
        site=Site(stack.name, layer, "expert_ffn"),
        kind="ffn",
        count=experts * width,
        parameters=_parameters(model, slices),
        slices=tuple(slices),
        module=path,
        hook_point="expert neurons",
        size=1,
        fields=((stack.field(neurons.width), 1),),
        rows=experts,
        step=EXPERT_STEP,
        within="experts",
    )


# --- vocabulary ----------------------------------------------------------------------------------------------------


def _vocabulary(model: nn.Module) -> Group:
    """The rows of the embedding and of the head over the vocabulary, whose weight may be the same."""
    slices = tuple(ParameterSlice(name, 0, 1) for name in vocabulary_parameters(model))
    return Group(
        site=VOCABULARY,
        kind=VOCABULARY.unit,
        count=model.get_parameter(slices[0].parameter).shape[0],
        parameters=_parameters(model, slices),
        slices=slices,
        module=slices[0].parameter.rpartition(".")[0],
        hook_point="none",
        size=int(_config(model).get_text_config().hidden_size),
        fields=(("vocab_size", 1),),
    )


def vocabulary_parameters(model: Any) -> list[str]:
    """The names of the parameters with a row for each token, shared ones once; the input embedding first."""
    parts = [model, *(getattr(model, f"get_{part}")() for part in _coders(model))]
    head = model.get_output_embeddings()
    weights = [part.get_input_embeddings().weight for part in parts] + ([] if head is None else [head.weight])
    biases = [bias for bias in [getattr(head, "bias", None)] if bias is not None]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return list(dict.fromkeys(names[id(parameter)] for parameter in (*weights, *biases)))


def _coders(model: Any) -> tuple[str, ...]:
    return ("encoder", "decoder") if model.config.is_encoder_decoder else ()


UNITS: dict[str, Callable[[nn.Module, Stack, int], list[Group]]] = {
    "ffn": _neurons,
    "heads": _heads,
    "head_dims": _head_dims,
    "layers": _layers,
    "experts": _experts,
}
