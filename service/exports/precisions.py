"""Quantised copies of a slim model: which models and widths each precision takes.

The plan and the worker ask the same function. `worker.quantisation` quantises, measures and stores what it lets pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from service.contract.answers.catalog import PlannedPrecision
from service.contract.errors import UnsupportedFormat
from service.contract.options import Precision, Unit
from service.contract.request.job_request import JobRequest
from service.models.families.family import ModelFamily
from service.models.families.runtimes.limits import untested_head
from service.models.tensors.names import CheckpointNames, StackNames

# Weights of a row that share a scale in 4 bits: the sizes for which vLLM has kernels, the smallest files first.
GROUP_SIZES = (128, 64, 32)
FOR_VLLM = (Precision.w8a8, Precision.w4a16)
PARAM = "output.quantise"


def check_precisions(
    request: JobRequest, family: ModelFamily, config: Mapping[str, Any], lengths: Iterable[int]
) -> None:
    """Raise UnsupportedFormat for a precision that is asked for and cannot hold the slim model or the dense one.

    `lengths` are those of the rows of the dense model's weight matrices, without embeddings and head.
    """
    if not request.output.quantise:
        return
    for planned in planned_precisions(request, family, config, lengths):
        if planned.precision in request.output.quantise and planned.reason is not None:
            raise UnsupportedFormat(f"`{planned.precision}`: {planned.reason}", param=PARAM)


def planned_precisions(
    request: JobRequest, family: ModelFamily, config: Mapping[str, Any], lengths: Iterable[int]
) -> list[PlannedPrecision]:
    """Every precision, and what speaks against it. `lengths` as for `check_precisions`."""
    rows, found = set(lengths), []
    for precision in Precision:
        reason, size = _against_family(precision, family), None
        if reason is None and precision is Precision.w4a16:
            all_rows = rows | set(_slim_lengths(request, family, config))
            reason, size = _against_lengths(request, all_rows), group_size(all_rows)
        found.append(PlannedPrecision(precision=precision, possible=reason is None, group_size=size, reason=reason))
    return found


def group_size(lengths: Iterable[int]) -> int | None:
    """The largest group that divides rows of all these lengths; None if there is none."""
    found = set(lengths)
    return next((size for size in GROUP_SIZES if not any(length % size for length in found)), None)


def _against_family(precision: Precision, family: ModelFamily) -> str | None:
    names, instead = family.names, f"leave `{precision}` out of `{PARAM}`"
    if names.experts:
        return f"the experts of a {family.model_type} are stored in one tensor, which is not quantised: {instead}"
    if names.transposed != CheckpointNames.transposed:
        return f"the weights of a {family.model_type} are not stored as those of linear modules: {instead}"
    if precision not in FOR_VLLM:
        return None
    if untested := untested_head(family.kind):
        return f"it is for vLLM, and {untested}: ask for `int8`"
    if family.kind != "causal" or "vllm" not in family.runtimes:
        return f"it is for vLLM, which has no decoder for {family.model_type}: ask for `int8`"
    return None


def _slim_lengths(request: JobRequest, family: ModelFamily, config: Mapping[str, Any]) -> Iterator[int]:
    """Numbers that divide the lengths of the rows that a cut makes shorter."""
    units, names = request.method.units, family.names.of(config)
    if Unit.ffn in units:
        yield request.output.round_to
    for stack in names.stacks if {Unit.heads, Unit.head_dims} & set(units) else ():
        heads, shared, size = _heads(names, stack, config)
        counted = shared if Unit.heads in units else heads
        yield counted if Unit.head_dims in units else counted * size


def _heads(names: CheckpointNames, stack: StackNames, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(heads, heads that share a key-value head, dimensions of a head)."""
    part = stack.config_in(config)
    heads = int(names.value(part, names.heads))
    groups = int(names.value(part, names.key_value_heads) or heads)
    size = int(names.value(part, names.head_size) or int(names.value(part, names.hidden_size)) // heads)
    return heads, heads // groups, size


def _against_lengths(request: JobRequest, lengths: set[int]) -> str | None:
    least = min(GROUP_SIZES)
    odd = sorted(length for length in lengths if length % least)
    if not odd:
        return None
    needed = f"groups of {least} weights share a scale, so that {least} must divide the length of every row"
    rounded = request.output.round_to if Unit.ffn in request.method.units else None
    if odd == [rounded]:
        return f"{needed}: send an `output.round_to` of {-(-odd[0] // least) * least}, or ask for `int8` or `w8a8`"
    return f"{needed}, and the rows here have {', '.join(map(str, odd))}: ask for `int8` or `w8a8`"
