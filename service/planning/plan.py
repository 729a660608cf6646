"""What a request would come to, without running it: from the model's config.json and the headers of its weights.

Scores decide which units go; how many follows from the request alone, except in a global rank, whose figures are those
of its ratio, and for a target that has to be measured, of which only what bounds it is known.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from service.contract.bisection import turning_point
from service.contract.catalog import Plan, Projected
from service.contract.errors import InvalidModel, InvalidRequest, TargetUnreachable
from service.contract.families import FAMILIES
from service.contract.fields import MAX_RATIO
from service.contract.method import Method, Target
from service.contract.options import Layout, Repair, Scope, Unit
from service.contract.report import Runtime
from service.contract.request import JobRequest
from service.contract.result import Widths
from service.contract.tensor_names import Shrinking, StackNames
from service.planning.admission import admit, check_layout, check_units
from service.planning.checkpoint import BUFFER, MAX_UNITS, Checkpoint, read_checkpoint
from service.planning.runtimes import runtimes
from service.sources.access import Access
from service.sources.safetensors_header import BYTES, Tensors, TensorShape, file_size

NAMES_KNOWN = 2**14


@dataclass(frozen=True)
class Cut:
    """How many units of one kind a stack has and keeps."""

    stack: StackNames
    unit: Unit
    dense: int
    slim: int

    @property
    def share(self) -> float:
        """What is kept of the dimension that shrinks."""
        return self.slim / self.dense


@dataclass(frozen=True)
class Removal:
    """What the removal of a share of the units comes to."""

    cuts: list[Cut]  # empty where scores decide the widths
    ratio: float
    parameters: int
    bytes: int


def plan(request: JobRequest, access: Access) -> Plan:
    """The plan. Raises what `POST /jobs` would."""
    admit(request, access)
    return project(request, access)


def project(request: JobRequest, access: Access) -> Plan:
    """The plan of a request that `admit` has let through.

    Raises TargetUnreachable where a width would be zero or no model is as small, InvalidRequest where the model is
    small enough as it is, and InvalidModel where config.json and the weights' headers do not describe a model.
    """
    checkpoint = read_checkpoint(request.model, access)
    check_layout(request, checkpoint.config)
    check_units(request, FAMILIES[checkpoint.family])
    _check_repair(request, checkpoint)
    if _chosen(request.method, checkpoint, [])[0] == 0:
        raise InvalidModel(f"the weights hold none of the units that {checkpoint.family} has", param="model.uri")
    removal = _asked(request, checkpoint)
    cuts = removal.cuts if removal and not _searches(request.target) else []
    slim = (removal.parameters, removal.bytes) if removal else (None, None)
    return Plan(
        family=checkpoint.family,
        exact=_is_counted(request) and not _searches(request.target),
        widths=_widths(cuts),
        ratio=removal.ratio if removal else None,
        parameters=Projected(dense=_count(checkpoint.tensors), slim=slim[0]),
        bytes=Projected(dense=checkpoint.stored_bytes, slim=slim[1]),
        cache_bytes_per_token=_cache(request, checkpoint, cuts),
        runtimes=runtimes(checkpoint.family, *_widths_that_matter(request, checkpoint, cuts), layout=_layout(request)),
    )


def made_runtimes(checkpoint: Checkpoint, units: Sequence[Unit], layout: Layout) -> list[Runtime]:
    """Which runtimes load a checkpoint from which `units` have been cut."""
    if layout is Layout.per_layer:
        return runtimes(checkpoint.family, [], [], layout=layout)
    widths = [_ffn_width(checkpoint, stack) for stack in checkpoint.names.stacks]
    heads, _ = _head_counts(checkpoint)
    rows = widths if Unit.ffn in units else []
    if {Unit.heads, Unit.head_dims} & set(units):
        rows = [*rows, heads * _head_size(checkpoint)]
    return runtimes(checkpoint.family, rows, [*widths, heads], layout=layout)


def _check_repair(request: JobRequest, checkpoint: Checkpoint) -> None:
    """As the worker's repair `bias`, which needs a bias in a module that reads units, or room for one."""
    if request.method.repair is not Repair.bias:
        return
    stacks = [stack for stack in checkpoint.names.stacks if stack.bias and not checkpoint.config.get(stack.bias)]
    if stacks and Unit.heads in request.method.units:
        message = "a Llama with biases cannot be written with any number of heads: choose another repair"
        raise InvalidRequest(message, param="method.repair")
    if not any(_holds_bias(request, checkpoint, stack) for stack in checkpoint.names.stacks):
        message = "the stock config of this family gives these modules no bias: choose another repair"
        raise InvalidRequest(message, param="method.repair")


def _holds_bias(request: JobRequest, checkpoint: Checkpoint, stack: StackNames) -> bool:
    """Whether any module of the stack that reads units of the request will have a bias."""
    found = _with_biases(request, checkpoint)
    readers = [next((row for row in stack.shrinking if row.unit is unit), None) for unit in request.method.units]
    return any(
        f"{name.removesuffix('weight')}bias" in found
        for name in checkpoint.tensors
        for place in [_place(name, stack)]
        for row in readers
        if place and row and name.endswith(".weight") and _matches(row.pattern, place[1])
    )


# --- what is asked for ---------------------------------------------------------------------------------------------


def _is_counted(request: JobRequest) -> bool:
    """Whether a ratio alone decides the widths."""
    return request.method.scope is Scope.layer and request.output.layout is Layout.uniform


def _searches(target: Target) -> bool:
    """Whether models have to be measured to know which one it is."""
    return target.is_measured and target.sweep is None


def _asked(request: JobRequest, checkpoint: Checkpoint) -> Removal | None:
    """What the target comes to, or the most that it allows to stay; None where only measurements tell."""
    target = request.target
    if target.ratio is not None:
        return _removal(request, checkpoint, target.ratio)
    if target.sweep is not None:
        _removal(request, checkpoint, max(target.sweep))
        return _removal(request, checkpoint, max(target.artifacts or target.sweep))
    if target.parameters is not None:
        return _within(request, checkpoint, "parameters", target.parameters)
    return None if target.bytes is None else _within(request, checkpoint, "bytes", target.bytes)


def _within(request: JobRequest, checkpoint: Checkpoint, name: str, number: int) -> Removal | None:
    """The least that has to go for a model with no more than `number` parameters or bytes; None where a floor under
    the metric alone decides, since the model is as small already."""
    whole = _removal(request, checkpoint, 0.0)
    if getattr(whole, name) <= number:
        if request.target.keep_metric is not None:
            return None
        message = f"the model has no more than {number} {name} as it is: {getattr(whole, name)}"
        raise InvalidRequest(message, param=f"target.{name}")

    def is_above(ratio: float) -> bool:
        return int(getattr(_removal(request, checkpoint, ratio), name)) > number

    highest = _highest(request, checkpoint)
    if is_above(highest):
        least = getattr(_removal(request, checkpoint, highest), name)
        message = f"the smallest model that can be made has {least} {name}, more than {number}"
        raise TargetUnreachable(message, param=f"target.{name}")
    return _removal(request, checkpoint, turning_point(0.0, highest, is_above)[1])


def _highest(request: JobRequest, checkpoint: Checkpoint) -> float:
    """The highest ratio that leaves a width everywhere."""

    def is_reached(ratio: float) -> bool:
        try:
            return not _is_counted(request) or bool(list(_cuts(request, checkpoint, ratio)))
        except TargetUnreachable:
            return False

    return MAX_RATIO if is_reached(MAX_RATIO) else turning_point(0.0, MAX_RATIO, is_reached)[0]


def _removal(request: JobRequest, checkpoint: Checkpoint, ratio: float) -> Removal:
    """What a ratio comes to. Raises TargetUnreachable."""
    cuts = list(_cuts(request, checkpoint, ratio)) if _is_counted(request) else []
    whole, removed = _chosen(request.method, checkpoint, cuts)
    reached = removed / whole if _is_counted(request) else ratio
    slim = _slimmed(_with_biases(request, checkpoint), checkpoint, cuts)
    gone = 0 if _is_counted(request) else round(ratio * whole)
    size = file_size(slim) - gone * BYTES[checkpoint.dtype]
    return Removal(cuts, reached, parameters=_count(slim) - gone, bytes=size)


# --- how many stay -------------------------------------------------------------------------------------------------


def _cuts(request: JobRequest, checkpoint: Checkpoint, ratio: float) -> Iterator[Cut]:
    method = request.method
    for stack in checkpoint.names.stacks:
        for unit in sorted(method.units):
            dense, choices = _choices(request, checkpoint, stack, unit)
            slim = nearest([0, *choices], (1 - ratio) * dense) if ratio else dense
            protected = method.protect_first + method.protect_last if unit is Unit.layers else 0
            if slim < max(1, min(protected, dense)):
                message = (
                    f"a ratio of {ratio:g} leaves {slim} of the {dense} {unit} of the {stack.name}: "
                    "ask for a lower ratio or a smaller round_to"
                )
                raise TargetUnreachable(
                    message, param="target.ratio" if request.target.sweep is None else "target.sweep"
                )
            yield Cut(stack, unit, dense, slim)


def _choices(request: JobRequest, checkpoint: Checkpoint, stack: StackNames, unit: Unit) -> tuple[int, Sequence[int]]:
    """(units that a stack has, the counts above zero that it may keep)."""
    names = checkpoint.names
    if unit is Unit.layers:
        dense = _num_layers(checkpoint, stack)
        return dense, range(1, dense + 1)
    if unit is Unit.ffn:
        dense = _ffn_width(checkpoint, stack)
        return dense, range(request.output.round_to, dense + 1, request.output.round_to)
    if unit is Unit.head_dims:
        dense = checkpoint.number(names.head_size)
        return dense, range(1, dense + 1)
    heads, dense = _head_counts(checkpoint)
    divides = any(checkpoint.config.get(field) for field in names.head_counts_divide)
    hidden, shared = checkpoint.number(names.hidden_size), heads // dense
    return dense, [kept for kept in range(1, dense + 1) if not divides or hidden % (kept * shared) == 0]


def _widths(cuts: Sequence[Cut]) -> list[Widths]:
    found = [Widths(stack=cut.stack.name, unit=cut.unit, dense=cut.dense, slim=cut.slim) for cut in cuts]
    return sorted(found, key=lambda widths: (widths.stack, widths.unit))


def nearest(choices: Iterable[int], asked: float) -> int:
    """The choice nearest to what is asked, of two that are as near the larger; as the worker's selection chooses."""
    return min(choices, key=lambda choice: (abs(choice - asked), -choice))


def _head_counts(checkpoint: Checkpoint) -> tuple[int, int]:
    """(query heads, key-value heads)."""
    names = checkpoint.names
    heads = checkpoint.number(names.heads)
    groups = heads if checkpoint.config.get(names.key_value_heads) is None else checkpoint.number(names.key_value_heads)
    if heads % groups:
        raise InvalidModel(f"{groups} key-value heads cannot share {heads} heads", param="model.uri")
    return heads, groups


def _head_size(checkpoint: Checkpoint) -> int:
    names = checkpoint.names
    if checkpoint.config.get(names.head_size) is not None:
        return checkpoint.number(names.head_size)
    return checkpoint.number(names.hidden_size) // checkpoint.number(names.heads)


# --- the tensors ---------------------------------------------------------------------------------------------------


def _place(name: str, stack: StackNames) -> tuple[int, str] | None:
    """(layer, path in it) of a tensor of the stack."""
    return _place_below(stack.layers, name)


# Every submission asks for the same few names several times over.
@lru_cache(maxsize=NAMES_KNOWN)
def _place_below(layers: str, name: str) -> tuple[int, str] | None:
    match = re.fullmatch(rf"(?:.*\.)?{re.escape(layers)}\.(\d{{1,4}})\.(.+)", name)
    return (int(match[1]), match[2]) if match else None


@lru_cache(maxsize=NAMES_KNOWN)
def _matches(pattern: str, path: str) -> bool:
    return re.fullmatch(pattern, path) is not None


def _layer_tensors(checkpoint: Checkpoint, stack: StackNames) -> Iterator[tuple[int, str, TensorShape]]:
    for name, tensor in checkpoint.tensors.items():
        if place := _place(name, stack):
            yield *place, tensor


def _num_layers(checkpoint: Checkpoint, stack: StackNames) -> int:
    layers = {layer for layer, _, _ in _layer_tensors(checkpoint, stack)}
    if not layers:
        message = f"the weights hold no layers of the {stack.name}, which {checkpoint.family} needs"
        raise InvalidModel(message, param="model.uri")
    return len(layers)


def _ffn_width(checkpoint: Checkpoint, stack: StackNames) -> int:
    row = stack.shrinking[0]
    widths = {
        tensor.shape[row.dim]
        for _, path, tensor in _layer_tensors(checkpoint, stack)
        if row in _shrinking(stack, path, tensor, [Unit.ffn])
    }
    if len(widths) != 1 or max(widths) > MAX_UNITS:
        message = f"the layers of the {stack.name} do not have one width of at most {MAX_UNITS}"
        raise InvalidModel(message, param="model.uri")
    return widths.pop()


def _shrinking(stack: StackNames, path: str, tensor: TensorShape, units: Iterable[Unit]) -> list[Shrinking]:
    """The rows of the table that a tensor falls under, as far as it has the dimension."""
    rows = (row for row in stack.shrinking if row.unit in units and row.dim < len(tensor.shape))
    return [row for row in rows if _matches(row.pattern, path)]


def _chosen(method: Method, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> tuple[int, float]:
    """(parameters of the chosen units, how many of them the cuts remove)."""
    whole, removed = 0, 0.0
    kept = {(cut.stack.name, cut.unit): cut for cut in cuts}
    layers_chosen = Unit.layers in method.units
    for stack in checkpoint.names.stacks:
        last = kept[stack.name, Unit.layers].slim if (stack.name, Unit.layers) in kept else math.inf
        for layer, path, tensor in _layer_tensors(checkpoint, stack):
            rows = _shrinking(stack, path, tensor, method.units)
            stays = math.prod(kept[stack.name, row.unit].share for row in rows) if cuts and layer < last else 1.0
            is_shared = path.endswith("relative_attention_bias.weight")  # moves to the next layer
            if layers_chosen:
                whole += 0 if is_shared else tensor.count
                removed += tensor.count if layer >= last else 0
            else:
                whole += tensor.count if rows else 0
            removed += tensor.count * (1 - stays)
    return whole, removed


def _slimmed(tensors: Tensors, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> dict[str, TensorShape]:
    """The slim checkpoint's tensors. Which layers go is open; those of a stack are alike, so the last ones stand in."""
    found: dict[str, TensorShape] = {}
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        for cut in cuts:
            place = _place(name, cut.stack)
            if place is None:
                continue
            if cut.unit is Unit.layers and place[0] >= cut.slim:
                break
            for row in _shrinking(cut.stack, place[1], tensor, [cut.unit]):
                shape[row.dim] = shape[row.dim] * cut.slim // cut.dense
        else:
            found[name] = TensorShape(tensor.dtype, tuple(shape)).cast(checkpoint.dtype)
    return found


def _with_biases(request: JobRequest, checkpoint: Checkpoint) -> dict[str, TensorShape]:
    """The tensors, with the zero biases that the repair `bias` gives the feed-forward modules where there are none."""
    found = dict(checkpoint.tensors)
    for stack in checkpoint.names.stacks:
        if request.method.repair is not Repair.bias or not stack.bias or checkpoint.config.get(stack.bias):
            continue
        for name, tensor in checkpoint.tensors.items():
            place = _place(name, stack)
            if place and name.endswith(".weight") and _shrinking(stack, place[1], tensor, [Unit.ffn]):
                found[f"{name.removesuffix('weight')}bias"] = TensorShape(tensor.dtype, tensor.shape[:1])
    return found


def _count(tensors: Tensors) -> int:
    """Parameters."""
    return sum(tensor.count for name, tensor in tensors.items() if not BUFFER.fullmatch(name))


# --- what it means to those who run it -----------------------------------------------------------------------------


def _kept(cuts: Sequence[Cut], unit: Unit, dense: int, stack: str = "decoder") -> int:
    return next((cut.slim for cut in cuts if cut.unit is unit and cut.stack.name == stack), dense)


def _cache(request: JobRequest, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> Projected | None:
    """2 (key and value) * layers * key-value heads * head size * bytes of a number; of a decoder's own tokens."""
    if FAMILIES[checkpoint.family].kind == "classifier":
        return None
    _, heads = _head_counts(checkpoint)
    decoder = checkpoint.names.stacks[-1]
    layers, size = _num_layers(checkpoint, decoder), _head_size(checkpoint)
    slim_heads = _kept(cuts, Unit.heads, heads)
    slim_layers, slim_size = _kept(cuts, Unit.layers, layers), _kept(cuts, Unit.head_dims, size)
    number = 2 * BYTES[checkpoint.dtype]
    is_known = bool(cuts) or request.method.units == [Unit.ffn]
    slim = number * slim_layers * slim_heads * slim_size if is_known else None
    return Projected(dense=number * layers * heads * size, slim=slim)


def _layout(request: JobRequest) -> Layout:
    """That of the checkpoint: where whole layers go and nothing else, those that stay are as they were."""
    return Layout.uniform if request.method.units == [Unit.layers] else request.output.layout


def _widths_that_matter(
    request: JobRequest, checkpoint: Checkpoint, cuts: Sequence[Cut]
) -> tuple[list[int], list[int]]:
    """(lengths of the rows that the cut has changed, counts that a split over devices divides); of one width."""
    if _layout(request) is Layout.per_layer:
        return [], []
    heads, groups = _head_counts(checkpoint)
    kept_groups = _kept(cuts, Unit.heads, groups)
    kept_heads = kept_groups * heads // groups
    widths = [cut.slim for cut in cuts if cut.unit is Unit.ffn]
    if not cuts and Unit.ffn in request.method.units:
        widths = [request.output.round_to]
    rows = list(widths)
    if {Unit.heads, Unit.head_dims} & set(request.method.units):
        rows.append(kept_heads * _kept(cuts, Unit.head_dims, _head_size(checkpoint)))
    return rows, [*(widths or [_ffn_width(checkpoint, stack) for stack in checkpoint.names.stacks]), kept_heads]
