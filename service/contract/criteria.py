"""The criteria: the ways to measure how important a unit is, one row for each.

The row holds what the API, the documents and the reports have to know of a criterion; its formula is in
`worker.slimming.scoring.criteria`, and a test compares the two. docs/contributing.md lists the steps that add one.
"""

from dataclasses import dataclass
from enum import StrEnum

from service.contract.options import FITTED, Merge, Normalisation, Repair, Unit


class Criterion(StrEnum):
    """How the importance of a unit is measured. The units with the lowest scores are removed."""

    attribution = "attribution"
    surgeon = "surgeon"
    second_moment = "second_moment"
    activation = "activation"
    selectivity = "selectivity"
    wanda = "wanda"
    flap = "flap"
    frequency = "frequency"
    router_weight = "router_weight"
    reap = "reap"
    easy_ep = "easy_ep"
    gisp = "gisp"
    block_influence = "block_influence"
    magnitude = "magnitude"
    random = "random"
    reverse = "reverse"


@dataclass(frozen=True)
class CriterionProperties:
    """What the API, the documents and the reports say of a criterion, and which options it can be used with.

    `summary` and `source` are Markdown. In the summary, `h` is the activation of a unit, `m` the objective. The source
    names the paper that defines the score, and completes the sentence "scored by the criterion (...)".
    """

    summary: str
    source: str = ""
    reads_data: bool = True  # false: scores depend on the weights alone, so that every step computes the same ones
    has_objective: bool = False  # `method.objective` changes the scores
    has_reductions: bool = False  # `method.token_reduction`, `sign` and `example_reduction` change the scores
    needs_general: bool = False  # scores compare the task's rows with general rows
    mixes_general: bool = False  # general rows can be mixed into the rows of the task (`method.general_weight`)
    has_seed: bool = False  # `method.seed` changes the scores
    unserved: tuple[Unit, ...] = ()  # units that the formula does not cover
    normalisation: Normalisation = Normalisation.none  # the default of `method.normalisation`
    default_for: tuple[Repair, ...] = ()  # the repairs with which a request without a criterion gets this one


# Units that are not the input of a linear module: formulas with the weights of that module do not cover them.
WITHOUT_CONSUMER = (Unit.head_dims, Unit.layers, Unit.experts)
# No criterion scores the vocabulary, which is ranked by its use.
ALL_BUT_LAYERS = tuple(unit for unit in Unit if unit not in (Unit.layers, Unit.vocabulary))
ALL_BUT_EXPERTS = tuple(unit for unit in Unit if unit not in (Unit.experts, Unit.vocabulary))

# Criteria whose scores are weights of experts that are merged: none is negative, and together they tell what is used.
OF_MERGES = (Criterion.frequency, Criterion.router_weight, Criterion.reap, Criterion.easy_ep)

CRITERIA: dict[Criterion, CriterionProperties] = {
    Criterion.attribution: CriterionProperties(
        summary="`h · ∂m/∂h`, reduced over the tokens of a row and then over rows as `token_reduction`, `sign` and "
        "`example_reduction` say",
        source="after [Task-specific Compression for Multi-task Language Models using Attribution-based Pruning]"
        "(https://arxiv.org/abs/2205.04157)",
        has_objective=True,
        has_reductions=True,
        mixes_general=True,
        default_for=(Repair.none, Repair.bias),
    ),
    Criterion.surgeon: CriterionProperties(
        summary="the mean squared change of `m` if the unit is removed and the best linear fit of the other units "
        "takes its place (optimal brain surgeon, with Kronecker factors from the same backward pass)",
        source="the optimal brain surgeon, with [Kronecker factors](https://arxiv.org/abs/1503.05671)",
        has_objective=True,
        mixes_general=True,
        unserved=(Unit.experts,),
        default_for=FITTED,
    ),
    Criterion.second_moment: CriterionProperties(
        summary="the sum over all tokens of the squared attribution",
        has_objective=True,
        mixes_general=True,
    ),
    Criterion.activation: CriterionProperties(
        summary="the mean of `|h|` over tokens",
        source="as in [Minitron](https://arxiv.org/abs/2407.14679)",
        unserved=(Unit.experts,),
        normalisation=Normalisation.mean,
    ),
    Criterion.selectivity: CriterionProperties(
        summary="the mean of `|h|` over the tokens of the task's rows against that over general rows, as "
        "`method.selectivity` says",
        source="after [Siam et al.](https://arxiv.org/abs/2604.27115)",
        needs_general=True,
        unserved=(Unit.experts,),
        normalisation=Normalisation.standard,
    ),
    Criterion.wanda: CriterionProperties(
        summary="the norm of `h` over tokens times the mean size of the weights that read it",
        source="after [Wanda](https://arxiv.org/abs/2306.11695)",
        unserved=WITHOUT_CONSUMER,
        normalisation=Normalisation.mean,
    ),
    Criterion.flap: CriterionProperties(
        summary="the variance of `h` over tokens times the squared norm of the weights that read it, standardised per "
        "layer",
        source="after [FLAP](https://arxiv.org/abs/2312.11983)",
        unserved=WITHOUT_CONSUMER,
        normalisation=Normalisation.standard,
    ),
    Criterion.frequency: CriterionProperties(
        summary="for `experts`: the share of the tokens that the router sends to the expert",
        source="as the baseline of [UNCURL](https://arxiv.org/abs/2409.01483)",
        unserved=ALL_BUT_EXPERTS,
        normalisation=Normalisation.mean,
    ),
    Criterion.router_weight: CriterionProperties(
        summary="for `experts`: the sum over tokens of the expert's gate weight",
        unserved=ALL_BUT_EXPERTS,
        normalisation=Normalisation.mean,
    ),
    Criterion.reap: CriterionProperties(
        summary="for `experts`: the mean, over the tokens that are sent to the expert, of its gate weight times the "
        "norm of its output",
        source="after [REAP](https://arxiv.org/abs/2510.13999)",
        unserved=ALL_BUT_EXPERTS,
        normalisation=Normalisation.mean,
    ),
    Criterion.easy_ep: CriterionProperties(
        summary="for `experts`: the sum over tokens of its gate weight times the norm of its output times `1 − cos` of "
        "the residual stream before and behind the block",
        source="after [EASY-EP](https://arxiv.org/abs/2504.06792)",
        unserved=ALL_BUT_EXPERTS,
        normalisation=Normalisation.mean,
    ),
    Criterion.gisp: CriterionProperties(
        summary="the sum over the unit's weights of `|w · ∂m/∂w|`; designed for many steps",
        source="after [GISP](https://arxiv.org/abs/2510.18030)",
        has_objective=True,
    ),
    Criterion.block_influence: CriterionProperties(
        summary="one minus the mean over tokens of the cosine between the hidden states in front of a layer and behind "
        "it; for `layers` alone",
        source="as in [ShortGPT](https://arxiv.org/abs/2403.03853)",
        unserved=ALL_BUT_LAYERS,
    ),
    Criterion.magnitude: CriterionProperties(
        summary="the norm of the unit's weights; uses no rows",
        source="after [Han et al.](https://arxiv.org/abs/1506.02626)",
        reads_data=False,
        normalisation=Normalisation.mean,
    ),
    Criterion.random: CriterionProperties(
        summary="random scores from `seed`; a control",
        reads_data=False,
        has_seed=True,
        normalisation=Normalisation.mean,
    ),
    Criterion.reverse: CriterionProperties(
        summary="`attribution` with the opposite sign; a control",
        has_objective=True,
        has_reductions=True,
    ),
}


def default_criterion(repair: Repair, merge: Merge = Merge.none) -> Criterion:
    """The criterion of a request that names none: the one that keeps most with its repair (benchmarks/RESULTS.md), and
    that of the paper for a merge."""
    if merge is not Merge.none:
        return Criterion.frequency
    return next(name for name, row in CRITERIA.items() if repair in row.default_for)


def criteria_in_words() -> str:
    """A text for the API document: what each criterion measures, and the default for each repair."""
    lines = [f"`{name.value}`: {row.summary}." for name, row in CRITERIA.items()]
    defaults = [
        f"`{name.value}` with the repairs {', '.join(f'`{repair.value}`' for repair in row.default_for)}"
        for name, row in CRITERIA.items()
        if row.default_for
    ]
    symbols = "`h` is the activation of a unit and `m` the objective"
    return (
        f"How the importance of a unit is measured. Default: {'; '.join(defaults)}; `frequency` with `merge`. "
        f"{' '.join(lines)} Here {symbols}."
    )


def normalisations_in_words() -> str:
    """A text for the API document: the default of `method.normalisation` for each criterion."""
    stated: dict[Normalisation, list[str]] = {}
    for name, row in CRITERIA.items():
        stated.setdefault(row.normalisation, []).append(f"`{name.value}`")
    return "; ".join(f"`{normalisation.value}` for {', '.join(names)}" for normalisation, names in stated.items())
