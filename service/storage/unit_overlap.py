"""Compares the units that two tasks keep, by their stored unit scores.

Of each group of units (such as the neurons of a layer) a task keeps the share with the highest scores. The overlap of
two tasks is |A ∩ B| / |A ∪ B| of the units that they keep (Jaccard index). Two random choices of k out of n units share
k²/n of them on average, the value that an overlap has to be compared with.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetensors import deserialize

from service.contract.answers.resources import MeasuredScores, Overlap, ScoreKind, SharedUnits
from service.contract.errors import NotComparable, NotFound
from service.storage.score_sets import ScoreSets

LAYERS = "layers"  # one score in each layer: all layers of a stack are ranked together


class UnitGroup(NamedTuple):
    """A group of units that are ranked together, named as in a score file: `{stack}.{layer}.{part}`."""

    stack: str
    layer: int
    part: str


UnitScores = Mapping[UnitGroup, Sequence[float]]


@dataclass(frozen=True)
class GroupOverlap:
    """How many units of a group each of two tasks keeps, and how many both keep."""

    group: UnitGroup
    count: int
    kept: int
    shared: int


def overlap(sets: ScoreSets, tenant: str, digests: Sequence[str], ratio: float) -> Overlap:
    """How many kept units two score sets share if each removes `ratio` of every group.

    Raises NotFound, and NotComparable for score sets of different models or units.
    """
    first, second = (sets.get(tenant, digest) for digest in digests)
    _check_comparable(first, second)
    one, other = (_read(sets, tenant, measured, ratio) for measured in (first, second))
    if {group: len(scores) for group, scores in one.items()} != {group: len(scores) for group, scores in other.items()}:
        raise NotComparable("the two score sets do not score the same groups of units", param="scores")
    overlaps = [_compare(group, one[group], other[group], ratio) for group in sorted(one)]
    by_layer = [each for each in overlaps if each.group.part != LAYERS]
    return Overlap(
        scores=list(digests),
        ratio=ratio,
        **_sum(overlaps),
        by_chance=_jaccard(sum(each.kept for each in overlaps), sum(each.kept**2 / each.count for each in overlaps)),
        parts=[_shared(stack, part, None, members) for (stack, part), members in _by_part(overlaps)],
        layers=[_shared(each.group.stack, each.group.part, each.group.layer, [each]) for each in by_layer],
    )


def _check_comparable(first: MeasuredScores, second: MeasuredScores) -> None:
    for measured in (first, second):
        if measured.kind is not ScoreKind.units:
            message = f"{measured.digest} holds scores of rows: only scores of units can be compared"
            raise NotComparable(message, param="scores")
    for part in ("model", "adapter"):
        if first.digests.get(part) != second.digests.get(part):
            raise NotComparable(f"the scores are of two models: their {part}s differ", param="scores")
    units = [sorted(measured.method.units) if measured.method else [] for measured in (first, second)]
    if units[0] != units[1]:
        raise NotComparable(f"the scores are of different units: {units[0]} and {units[1]}", param="scores")


# --- the score file ------------------------------------------------------------------------------------------------


def _read(sets: ScoreSets, tenant: str, measured: MeasuredScores, ratio: float) -> UnitScores:
    content = sets.content(tenant, measured.digest)
    if content is None:
        raise NotFound(f"the scores {measured.digest!r} are damaged or no longer stored")
    return _with_layers_together(unit_scores(content, step_for(measured.ratios, ratio)))


def step_for(ratios: Sequence[float], ratio: float) -> int:
    """The step whose scores decide what a removal of `ratio` keeps: the last step that starts below `ratio`."""
    return max(bisect_left(ratios, ratio) - 1, 0)


def unit_scores(content: bytes, step: int) -> UnitScores:
    """The float32 vectors of one step in a score file: safetensors with the names `{step}.{stack}.{layer}.{part}`."""
    found: dict[UnitGroup, Sequence[float]] = {}
    tensors: list[tuple[str, dict[str, Any]]] = deserialize(content)  # type: ignore[no-untyped-call]
    for name, tensor in tensors:
        if name.startswith(f"{step}."):
            _, stack, layer, part = name.split(".")
            found[UnitGroup(stack, int(layer), part)] = array("f", bytes(tensor["data"]))
    return found


def _with_layers_together(scores: UnitScores) -> UnitScores:
    """The scores with the layers of each stack as one group."""
    found = {group: values for group, values in scores.items() if group.part != LAYERS}
    for group in sorted(scores.keys() - found.keys()):
        stack = UnitGroup(group.stack, 0, LAYERS)
        found[stack] = [*found.get(stack, []), *scores[group]]
    return found


# --- kept units ----------------------------------------------------------------------------------------------------


def _compare(group: UnitGroup, one: Sequence[float], other: Sequence[float], ratio: float) -> GroupOverlap:
    kept = max(1, round((1 - ratio) * len(one)))
    return GroupOverlap(group, len(one), kept, len(best(one, kept) & best(other, kept)))


def best(scores: Sequence[float], num_kept: int) -> set[int]:
    """Indices of the highest scores. Of equal scores the lower index comes first, as in the worker's selection."""
    return set(sorted(range(len(scores)), key=lambda unit: (-scores[unit], unit))[:num_kept])


def _by_part(overlaps: Iterable[GroupOverlap]) -> Iterator[tuple[tuple[str, str], list[GroupOverlap]]]:
    """(stack, part) -> the overlaps of its layers."""
    members: dict[tuple[str, str], list[GroupOverlap]] = defaultdict(list)
    for each in overlaps:
        members[each.group.stack, each.group.part].append(each)
    yield from members.items()


def _shared(stack: str, part: str, layer: int | None, overlaps: Sequence[GroupOverlap]) -> SharedUnits:
    return SharedUnits(stack=stack, part=part, layer=layer, **_sum(overlaps))


def _sum(overlaps: Sequence[GroupOverlap]) -> dict[str, float]:
    kept, shared = sum(each.kept for each in overlaps), sum(each.shared for each in overlaps)
    return {"kept": kept, "shared": shared, "jaccard": _jaccard(kept, shared)}


def _jaccard(kept: float, shared: float) -> float:
    """|A ∩ B| / |A ∪ B| of two sets with `kept` members each, `shared` of them in both."""
    return shared / (2 * kept - shared)
