"""Which units two tasks have in common, as far as their stored scores tell: no torch, no worker.

Of each group of units (the neurons of one layer, say) a task keeps the share with the highest scores. What two tasks
share is |A ∩ B| / |A ∪ B| of the units that they keep (Jaccard). Two choices by lot would share k²/n of n units of
which each keeps k, which is what an overlap must be read against.
"""

import json
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.contract.errors import NotComparable, NotFound
from service.contract.resources import MeasuredScores, Overlap, ScoreKind, SharedUnits
from service.storage.score_sets import ScoreSets

LAYERS = "layers"  # units that compete over a whole stack: one score in each layer


class Site(NamedTuple):
    """Names a group of units, as the tensors of a score file do: `{stack}.{layer}.{part}`."""

    stack: str
    layer: int
    part: str


UnitScores = Mapping[Site, Sequence[float]]


@dataclass(frozen=True)
class Common:
    """What two tasks keep of one pool of units: `kept` each, of which both keep `shared`."""

    site: Site
    count: int
    kept: int
    shared: int


def overlap(sets: ScoreSets, tenant: str, digests: Sequence[str], ratio: float) -> Overlap:
    """How many kept units two score sets share when each removes `ratio` of every group.

    Raises NotFound, or NotComparable for sets of different models or units.
    """
    first, second = (sets.get(tenant, digest) for digest in digests)
    _check_alike(first, second)
    mine, theirs = (_read(sets, tenant, measured, ratio) for measured in (first, second))
    if {site: len(scores) for site, scores in mine.items()} != {site: len(scores) for site, scores in theirs.items()}:
        raise NotComparable("the two score sets do not score the same groups of units", param="scores")
    pools = [_common(site, mine[site], theirs[site], ratio) for site in sorted(mine)]
    return Overlap(
        scores=list(digests),
        ratio=ratio,
        **_together(pools),
        by_chance=_jaccard(sum(pool.kept for pool in pools), sum(pool.kept**2 / pool.count for pool in pools)),
        parts=[_shared(key[0], key[1], None, members) for key, members in _by_part(pools)],
        layers=[_shared(*pool.site[::2], pool.site.layer, [pool]) for pool in pools if pool.site.part != LAYERS],
    )


def _check_alike(first: MeasuredScores, second: MeasuredScores) -> None:
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


# --- the file ------------------------------------------------------------------------------------------------------


def _read(sets: ScoreSets, tenant: str, measured: MeasuredScores, ratio: float) -> UnitScores:
    content = sets.content(tenant, measured.digest)
    if content is None:
        raise NotFound(f"the scores {measured.digest!r} are damaged or gone")
    return _pooled(unit_scores(content, step_for(measured.ratios, ratio)))


def step_for(ratios: Sequence[float], ratio: float) -> int:
    """The step whose scores decide what a removal of `ratio` keeps: the last one on the way to it."""
    return max(bisect_left(ratios, ratio) - 1, 0)


def unit_scores(content: bytes, step: int) -> UnitScores:
    """The float32 vectors of one step in a score file: safetensors with the names `{step}.{stack}.{layer}.{part}`."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    found: dict[Site, Sequence[float]] = {}
    for name, entry in header.items():
        if name.startswith(f"{step}."):
            _, stack, layer, part = name.split(".")
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[Site(stack, int(layer), part)] = array("f", content[start:end])
    return found


def _pooled(scores: UnitScores) -> UnitScores:
    """The scores with the layers of a stack as one group."""
    found = {site: values for site, values in scores.items() if site.part != LAYERS}
    for site in sorted(scores.keys() - found.keys()):
        stack = Site(site.stack, 0, LAYERS)
        found[stack] = [*found.get(stack, []), *scores[site]]
    return found


# --- what is kept --------------------------------------------------------------------------------------------------


def _common(site: Site, mine: Sequence[float], theirs: Sequence[float], ratio: float) -> Common:
    kept = max(1, round((1 - ratio) * len(mine)))
    return Common(site, len(mine), kept, len(best(mine, kept) & best(theirs, kept)))


def best(scores: Sequence[float], num_kept: int) -> set[int]:
    """Indices of the highest scores; of equals, the lowest, as the worker's selection has it."""
    return set(sorted(range(len(scores)), key=lambda unit: (-scores[unit], unit))[:num_kept])


def _by_part(pools: Iterable[Common]) -> Iterator[tuple[tuple[str, str], list[Common]]]:
    members: dict[tuple[str, str], list[Common]] = defaultdict(list)
    for pool in pools:
        members[pool.site.stack, pool.site.part].append(pool)
    yield from members.items()


def _shared(stack: str, part: str, layer: int | None, pools: Sequence[Common]) -> SharedUnits:
    return SharedUnits(stack=stack, part=part, layer=layer, **_together(pools))


def _together(pools: Sequence[Common]) -> dict[str, float]:
    kept, shared = sum(pool.kept for pool in pools), sum(pool.shared for pool in pools)
    return {"kept": kept, "shared": shared, "jaccard": _jaccard(kept, shared)}


def _jaccard(kept: float, shared: float) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of `kept` members each."""
    return shared / (2 * kept - shared)
