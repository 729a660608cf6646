"""Allocation: from a ratio to the number of units that each group keeps.

In the scope "layer" the same share of every group is removed. In the scope "global" all units are ranked together by
their score per parameter, and one threshold decides which are removed. In both, the rows of the vocabulary that no text
needs go first, and the other units have the rest of the ratio.

Shape suffixes: U units of a group.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.slimming.surgery.vocabulary import is_unused
from worker.slimming.units.groups import VOCABULARY, Group, Scores, Site

# The largest share of the target by which floors and rounding may miss it; to miss it by more is an error.
TOLERANCE = 0.02


class WidthUnreachable(ValueError):
    """Raised where rounding, a floor or protected layers do not allow the widths that the ratio needs."""


@dataclass(frozen=True)
class Rules:
    """The rules of a selection, named as the fields of `method` and `output` in a request."""

    scope: str = "layer"
    layout: str = "uniform"
    normalisation: str = "none"  # of the scores of a group before groups are compared; a key of NORMALISATIONS
    floor: float = 0.05  # least share of its units that every group keeps in a global rank
    protect_first: int = 0  # first layers of each stack from which nothing is removed
    protect_last: int = 0


def allocate(scores: Scores, groups: Sequence[Group], ratio: float, round_to: int, rules: Rules) -> dict[Site, int]:
    """The number of units that each group keeps. Raises WidthUnreachable."""
    if ratio == 0:
        return {group.site: group.count for group in groups}
    if any(group.site == VOCABULARY for group in groups):
        return _unused_rows_first(scores, groups, ratio, round_to, rules)
    if rules.scope == "global":
        return _by_threshold(scores, groups, ratio, round_to, rules)
    layers = [group for group in groups if group.kind == "layers"]
    counts = {group.site: width(group, ratio, round_to) for group in groups if group.kind != "layers"}
    return counts | _lowest_layers(scores, layers, ratio, rules)


# --- the vocabulary --------------------------------------------------------------------------------------------------


def _unused_rows_first(
    scores: Scores, groups: Sequence[Group], ratio: float, round_to: int, rules: Rules
) -> dict[Site, int]:
    """Remove rows that no text needs, which costs nothing there, and other units where these do not make the ratio."""
    others = [group for group in groups if group.site != VOCABULARY]
    [rows] = [group for group in groups if group.site == VOCABULARY]
    unused, target = int(is_unused(scores[VOCABULARY]).sum()), ratio * _all_parameters(groups)
    removed = min(unused, round(target / rows.parameters))
    left = target - removed * rows.parameters
    counts = {VOCABULARY: rows.count - removed}
    if removed < unused or left <= 0:
        return counts | {group.site: group.count for group in others}
    most = f"the text needs {rows.count - unused} of the {rows.count} rows of the vocabulary"
    if not others:
        if left > target * TOLERANCE:
            raise WidthUnreachable(
                f"a ratio of {ratio:g} is more than the vocabulary has to give: {most}, which leaves a ratio of "
                f"{unused / rows.count:.3f}"
            )
        return counts
    try:
        return counts | allocate(scores, others, left / _all_parameters(others), round_to, rules)
    except WidthUnreachable as error:
        raise WidthUnreachable(f"{most}, and of the other units {error}") from error


# --- the same share everywhere -------------------------------------------------------------------------------------


def width(group: Group, ratio: float, round_to: int) -> int:
    """The number of units that `group` keeps: of those that it may keep, the nearest to what the ratio leaves."""
    target = (1 - ratio) * group.count
    kept = _nearest([0, *_choices(group, round_to)], target / group.rows)
    if kept == 0:
        raise WidthUnreachable(
            f"a ratio of {ratio:g} leaves {target:.0f} of the {group.count} units of {group.site}, which rounds to zero"
            + (f" in multiples of {_step(group, round_to)} (`output.round_to`)" if group.kind == "ffn" else "")
        )
    return kept * group.rows


def _choices(group: Group, round_to: int) -> list[int]:
    """The numbers of units above zero that each row of the group may keep, ascending."""
    if group.allowed:
        return [count // group.rows for count in group.allowed]
    step = _step(group, round_to)
    return list(range(step, group.count // group.rows + 1, step))


def _step(group: Group, round_to: int) -> int:
    return math.lcm(round_to, group.step) if group.kind == "ffn" else 1


def _nearest(choices: Sequence[int], target: float) -> int:
    """The choice that is nearest to `target`; of two that are equally near, the larger."""
    return min(choices, key=lambda choice: (abs(choice - target), -choice))


def _lowest_layers(scores: Scores, layers: Sequence[Group], ratio: float, rules: Rules) -> dict[Site, int]:
    """Remove the share `ratio` of the layers of each stack, those with the lowest scores."""
    counts: dict[Site, int] = {}
    for stack in dict.fromkeys(group.site.stack for group in layers):
        members = [group.site for group in layers if group.site.stack == stack]
        num_kept = math.floor((1 - ratio) * len(members) + 0.5)
        protected = [site for site in members if is_protected(site, len(members), rules)]
        if num_kept < max(1, len(protected)):
            raise WidthUnreachable(f"a ratio of {ratio:g} leaves {num_kept} of the {len(members)} layers of {stack}")
        ranked = sorted(members, key=lambda site: (site not in protected, -float(scores[site]), site.layer))
        counts |= {site: int(rank < num_kept) for rank, site in enumerate(ranked)}
    return counts


def is_protected(site: Site, num_layers: int, rules: Rules) -> bool:
    """Whether the rules forbid to remove anything from this layer."""
    return site.layer < rules.protect_first or site.layer >= num_layers - rules.protect_last


# --- one threshold for all -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pool:
    """Groups that must keep the same number of units in each row."""

    members: tuple[Group, ...]
    density: Tensor  # score per parameter of every unit of every member
    choices: tuple[int, ...]  # numbers of units that a row may keep

    @property
    def rows(self) -> int:
        """The rows of all members."""
        return sum(group.rows for group in self.members)

    def count_at(self, threshold: float) -> int:
        """The number that each row keeps: the choice nearest to the mean number of units not below the threshold."""
        return _nearest(self.choices, float((self.density >= threshold).sum()) / self.rows)

    def counts(self, in_row: int) -> dict[Site, int]:
        """The number of units of each member, with so many in each row."""
        return {group.site: in_row * group.rows for group in self.members}

    @property
    def open_choices(self) -> list[int]:
        """The choices that need none of the units that earlier steps have removed; these have the score -inf."""
        left = int(self.density.isfinite().sum()) // self.rows
        return [choice for choice in self.choices if choice <= left]


def _by_threshold(
    scores: Scores, groups: Sequence[Group], ratio: float, round_to: int, rules: Rules
) -> dict[Site, int]:
    pools = _pools(scores, groups, round_to, rules)
    target = ratio * _all_parameters(groups)
    thresholds = torch.cat([pool.density for pool in pools] + [torch.tensor([torch.inf])]).unique()
    low, high = 0, thresholds.numel() - 1
    most = _removed_parameters(_counts(pools, float(thresholds[high])), groups)
    if most < target * (1 - TOLERANCE):
        raise WidthUnreachable(
            f"a ratio of {ratio:g} is more than the floors, protected layers and rounding leave to remove: "
            f"{ratio * most / target:.3f}"
        )
    while low < high:  # bisection, since the number of removed parameters grows with the threshold
        middle = (low + high) // 2
        if _removed_parameters(_counts(pools, float(thresholds[middle])), groups) < target:
            low = middle + 1
        else:
            high = middle
    around = [_counts(pools, float(thresholds[index])) for index in (max(low - 1, 0), low)]
    nearest, other = sorted(around, key=lambda counts: abs(_removed_parameters(counts, groups) - target))
    between = _between(pools, nearest, other, groups) if rules.layout == "uniform" else []
    return min([nearest, *between], key=lambda counts: abs(_removed_parameters(counts, groups) - target))


def _between(
    pools: Sequence[_Pool], nearest: dict[Site, int], other: dict[Site, int], groups: Sequence[Group]
) -> Iterator[dict[Site, int]]:
    """Counts that remove an amount between that of `nearest` and the middle of `nearest` and `other`.

    With equal widths, one unit of every layer is removed at once. If the unit is large, such as a head, this may miss
    the ratio, and the width of another kind of unit can make up the difference. Layers are removed by score alone.
    """
    ends = [_removed_parameters(counts, groups) for counts in (nearest, other)]
    low, high = sorted([ends[0], sum(ends) / 2])
    for pool in pools:
        first = pool.members[0]
        if first.kind != "layers" and nearest[first.site] == other[first.site]:
            tried = (nearest | pool.counts(count) for count in pool.open_choices)
            yield from (counts for counts in tried if low <= _removed_parameters(counts, groups) <= high)


def _pools(scores: Scores, groups: Sequence[Group], round_to: int, rules: Rules) -> list[_Pool]:
    members: dict[object, list[Group]] = defaultdict(list)
    for group in groups:
        shares = rules.layout == "uniform" and group.kind != "layers"
        # The config of a layer has one number for each field, too.
        members[group.fields if shares else (group.level or (*group.site[:2], group.fields))].append(group)
    kept_layers = _safe_layers(scores, groups, rules)
    return [
        _Pool(tuple(pool), torch.cat([density(scores, group, rules) for group in pool]), choices)
        for pool in members.values()
        for choices in [_pool_choices(pool, round_to, rules, kept_layers)]
    ]


def _pool_choices(pool: Sequence[Group], round_to: int, rules: Rules, safe: set[tuple[str, int]]) -> tuple[int, ...]:
    group = pool[0]
    if group.kind == "layers":
        return (1,) if group.site[:2] in safe else (0, 1)
    whole = group.count // group.rows
    if rules.layout != "uniform" and group.site[:2] in safe:
        return (whole,)
    choices = [count for count in _choices(group, round_to) if count >= rules.floor * whole]
    if rules.layout != "uniform" or not choices:
        choices.append(whole)
    return tuple(sorted(set(choices)))


def _safe_layers(scores: Scores, groups: Sequence[Group], rules: Rules) -> set[tuple[str, int]]:
    """(stack, layer) of the layers that must be kept: protected ones, or the best one of a stack without any."""
    size = {group.site.stack: group.site.layer + 1 for group in groups}
    safe = {group.site[:2] for group in groups if is_protected(group.site, size[group.site.stack], rules)}
    for stack in size:
        layers = [group.site for group in groups if group.kind == "layers" and group.site.stack == stack]
        if layers and not any(site[:2] in safe for site in layers):
            safe.add(max(layers, key=lambda site: (float(scores[site]), -site.layer))[:2])
    return safe


def density(scores: Scores, group: Group, rules: Rules) -> Tensor:
    """What the units of a group are ranked by against those of other groups: score per parameter, normalised (U).

    Scores are divided by the number of parameters first, so that units of different size are comparable.
    """
    return NORMALISATIONS[rules.normalisation](scores[group.site].double() / group.parameters)


def _by_mean(score_U: Tensor) -> Tensor:
    # Units that earlier steps have removed have the score -inf.
    mean = score_U[score_U.isfinite()].abs().mean()
    return score_U / mean if mean > 0 else score_U


def _standardised(score_U: Tensor) -> Tensor:
    finite = score_U[score_U.isfinite()]
    spread = finite.std(correction=0)
    return (score_U - finite.mean()) / spread if spread > 0 else score_U - finite.mean()


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda score_U: score_U,
    "mean": _by_mean,
    "standard": _standardised,
}


def _counts(pools: Sequence[_Pool], threshold: float) -> dict[Site, int]:
    return {site: count for pool in pools for site, count in pool.counts(pool.count_at(threshold)).items()}


def share_removed(groups: Sequence[Group], counts: Mapping[Site, int]) -> float:
    """The share of the groups' parameters that is removed if each keeps its count: the ratio that is reached."""
    return _removed_parameters(counts, groups) / _all_parameters(groups)


def _all_parameters(groups: Sequence[Group]) -> int:
    # A layer contains the parameters of the other units, a head those of its dimensions, and an expert those of its
    # neurons: count those only once.
    located = {group.site for group in groups}
    has_layers = any(group.kind == "layers" for group in groups)
    alone = (group for group in groups if _holder(group) not in located)
    kinds = ("layers", VOCABULARY.unit)
    return sum(group.count * group.parameters for group in alone if not has_layers or group.kind in kinds)


def _removed_parameters(counts: Mapping[Site, int], groups: Sequence[Group]) -> float:
    """Removed parameters: those of removed layers, and of removed units within the layers, heads and experts that
    stay."""
    removed = {group.site[:2] for group in groups if group.kind == "layers" and counts[group.site] == 0}
    shares = {group.site: counts[group.site] / group.count for group in groups}
    return sum(
        (group.count - counts[group.site]) * group.parameters * shares.get(_holder(group), 1.0)
        for group in groups
        if group.kind == "layers" or group.site[:2] not in removed
    )


def _holder(group: Group) -> Site:
    """The site of the units that contain those of the group; a site without units where none do."""
    return group.site._replace(unit=group.within)
