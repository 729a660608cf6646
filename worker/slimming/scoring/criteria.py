"""How important a unit is: one row for each criterion, and one function for each formula.

Shape suffixes: B rows of a batch, T positions, E examples, U units of a group, C channels of the group's watched
activation (C = U * size), O outputs, F parameters of one unit, S statistics.

A criterion says what it has to see, adds up over data what a batch shows (`observe`), and turns the sums and the
weights into scores (`finalize`). Sums are float64, so that neither the batches nor their order change a score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

from worker.slimming.scoring import optimal_brain_surgeon
from worker.slimming.scoring.second_moments import RIDGE, Moments
from worker.slimming.units import Site

Needs = Literal["weights", "activations", "gradients", "weight gradients", "moments"]


@dataclass(frozen=True)
class Options:
    """What a criterion may be told; names as in the contract's Method."""

    objective: str = "margin"
    token_reduction: str = "sum"
    sign: str = "signed"
    example_reduction: str = "square"
    seed: int = 0


@dataclass(frozen=True)
class Observation:
    """What one group shows of one batch; `gradient` is there for criteria that need it. See attribution.py."""

    activation_BTC: Tensor
    gradient_BTC: Tensor | None
    mask_BT: Tensor
    example_B: Tensor
    num_examples: int
    size: int  # channels of a unit


@dataclass(frozen=True)
class Statistics:
    """What is known of one group when all batches have been seen."""

    site: Site
    count: int  # units
    size: int  # channels of a unit
    sums: Tensor  # float64, (S, U) or (S, C) as the criterion observes them; empty where it observes nothing
    num_examples: int
    num_tokens: int
    weights_UF: tuple[Tensor, ...]  # matrix by matrix; the first one reads the watched activation
    gradients_UF: tuple[Tensor, ...] = ()  # dJ/dW, summed over the examples
    moments: Moments | None = None  # of the module that reads the group

    @property
    def reading_CO(self) -> Tensor:
        """The weights that read each channel, float32."""
        return self.weights_UF[0].float().reshape(self.count * self.size, -1)

    def per_unit(self, value_C: Tensor) -> Tensor:
        """Sum over the channels of each unit (U)."""
        return value_C.view(self.count, self.size).sum(1)


@dataclass(frozen=True)
class Formula:
    """One way to score. Units with the lowest scores are removed."""

    needs: Needs
    finalize: Callable[[Statistics, Options], Tensor]  # -> score (U)
    observe: Callable[[Observation, Options], Tensor] | None = None  # -> what the batch adds to the sums, if they count
    fixed: Mapping[str, Any] = field(default_factory=dict)  # options that are not for the caller to choose
    unserved: tuple[str, ...] = ()  # kinds of units that the formula does not cover
    # What makes scores comparable across groups whose own scale says nothing there: see `allocation.NORMALISATIONS`.
    normalisation: str = "none"

    def options(self, options: Options) -> Options:
        """The options that are in force."""
        return replace(options, **self.fixed)


# --- attribution ---------------------------------------------------------------------------------------------------


def _attribution_sums(seen: Observation, options: Options) -> Tensor:
    """Sum over the batch's examples of the example reduction of the token reduction of h * dJ/dh (1, U)."""
    product_ETU, mask_ET = _products(seen)
    if options.sign == "absolute":
        product_ETU = product_ETU.abs_()
    reduced_EU = TOKEN_REDUCTIONS[options.token_reduction](product_ETU, mask_ET)
    return EXAMPLE_REDUCTIONS[options.example_reduction](reduced_EU.double()).unsqueeze(0)


def _products(seen: Observation) -> tuple[Tensor, Tensor]:
    """h * dJ/dh of every unit, zero at padding (E, T, U), and which positions an example has (E, T).

    The rows of one example differ in the candidate that follows the prompt. J depends on the sum of what a unit does
    at a prompt position in all of them, since removing the unit removes it from each.
    """
    assert seen.gradient_BTC is not None
    product_BTC = seen.activation_BTC.float() * seen.gradient_BTC
    product_BTU = product_BTC if seen.size == 1 else product_BTC.view(*product_BTC.shape[:2], -1, seen.size).sum(-1)
    product_BTU.masked_fill_(~seen.mask_BT.unsqueeze(-1), 0)
    if seen.num_examples == seen.example_B.numel():  # one row each; what follows does not mind their order
        return product_BTU, seen.mask_BT
    shape = (seen.num_examples, *product_BTU.shape[1:])
    product_ETU = product_BTU.new_zeros(shape).index_add_(0, seen.example_B, product_BTU)
    rows_ET = torch.zeros_like(product_ETU[:, :, 0]).index_add_(0, seen.example_B, seen.mask_BT.float())
    return product_ETU, rows_ET > 0


def _mean(product_ETU: Tensor, mask_ET: Tensor) -> Tensor:
    return product_ETU.sum(1) / mask_ET.sum(1, keepdim=True)


def _max(product_ETU: Tensor, mask_ET: Tensor) -> Tensor:
    return product_ETU.masked_fill(~mask_ET.unsqueeze(-1), -torch.inf).amax(1)


# The padding of the products is zero, so that a sum needs no mask.
TOKEN_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda product_ETU, _: product_ETU.sum(1),
    "mean": _mean,
    "max": _max,
    "square": lambda product_ETU, _: product_ETU.square().sum(1),
}

EXAMPLE_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda reduced_EU: reduced_EU.sum(0),
    "square": lambda reduced_EU: reduced_EU.square().sum(0),
}


def attribution(evidence: Statistics, options: Options) -> Tensor:
    """A_i = h_i * dJ/dh_i, reduced over tokens and then over examples (Yang et al., arXiv 2205.04157).

    With the example reduction `square` the mean of A_i^2, which neurons on both sides of the decision survive: a
    signed sum over examples cancels those that push for one answer here and for another there.
    """
    return evidence.sums[0] if options.example_reduction == "sum" else evidence.sums[0] / evidence.num_examples


def reverse(evidence: Statistics, options: Options) -> Tensor:
    """-attribution: removes first what attribution keeps longest. A control: anything else has to beat it."""
    return -attribution(evidence, options)


# --- attribution of what the others cannot make up for ---------------------------------------------------------------


def surgeon(evidence: Statistics, options: Options) -> Tensor:
    """E[(dJ/dh_i)^2] * Var(h_i | the units that are left), unit after unit: see `elimination`.

    The optimal brain surgeon (Hassibi and Stork, NIPS 1992) with Kronecker factors (Martens and Grosse, 2015), over
    tokens weighed as in `moments`. Made for a cut that is repaired by least squares, whose fit it foresees. For units
    that no module reads (query dimensions, layers), and that nothing stands in for, that is E[(h_i * dJ/dh_i)^2].
    """
    moments = evidence.moments
    if moments is None:
        return evidence.sums[0] / evidence.num_tokens
    assert moments.effect_OO is not None
    spread_CC = moments.spread_CC
    spread_CC.diagonal().add_(RIDGE * float(spread_CC.diagonal().mean()))
    effect_OO = moments.effect_OO / moments.num_tokens
    return optimal_brain_surgeon.costs(evidence.reading_CO.T, spread_CC, effect_OO, evidence.size)


# --- activations ---------------------------------------------------------------------------------------------------


def _activation_sums(seen: Observation, options: Options) -> Tensor:
    """Sums over tokens of |h|, h and h^2 (3, C)."""
    activation_NC = seen.activation_BTC[seen.mask_BT].double()
    return torch.stack([activation_NC.abs().sum(0), activation_NC.sum(0), activation_NC.square().sum(0)])


def activation(evidence: Statistics, options: Options) -> Tensor:
    """Mean over tokens of |h_c|, summed over the unit's channels (as Minitron, arXiv 2407.14679)."""
    return evidence.per_unit(evidence.sums[0] / evidence.num_tokens)


def wanda(evidence: Statistics, options: Options) -> Tensor:
    """||h_c||_2 * mean over outputs of |W_oc| (Wanda, arXiv 2306.11695, with its weights summed over the structure)."""
    return evidence.per_unit(evidence.sums[2].sqrt() * evidence.reading_CO.abs().mean(1))


def flap(evidence: Statistics, options: Options) -> Tensor:
    """Var(h_c) * ||W_:c||_2^2, standardised over the group (FLAP's WIFV, arXiv 2312.11983).

    The standardisation changes no rank within a group; it is how FLAP compares the layers of a global rank.
    """
    mean_C, square_C = evidence.sums[1] / evidence.num_tokens, evidence.sums[2] / evidence.num_tokens
    raw_U = evidence.per_unit((square_C - mean_C.square()).clamp_min(0) * evidence.reading_CO.square().sum(1))
    spread = raw_U.std(correction=0)
    return (raw_U - raw_U.mean()) / spread if spread > 0 else torch.zeros_like(raw_U)


# --- weights and their gradients -----------------------------------------------------------------------------------


def gisp(evidence: Statistics, options: Options) -> Tensor:
    """Sum over the unit's weights of |w * dJ/dw|, the first-order change of J when one of them goes (GISP, 2510.18030).

    J is the sum over all examples of the objective, the margin if nothing else is asked for. Made for many small steps
    with the scores taken anew (`steps`).
    """
    pairs = zip(evidence.weights_UF, evidence.gradients_UF, strict=True)
    return torch.stack([(weight_UF.float() * gradient_UF).abs().sum(1) for weight_UF, gradient_UF in pairs]).sum(0)


# --- controls that see no data -------------------------------------------------------------------------------------


def random(evidence: Statistics, options: Options) -> Tensor:
    """Uniform in [0, 1), by seed and site: the control that every criterion has to beat."""
    generator = torch.Generator().manual_seed(crc32(f"{options.seed} {evidence.site}".encode()))
    return torch.rand(evidence.count, generator=generator)


def magnitude(evidence: Statistics, options: Options) -> Tensor:
    """||w_i||_2 over all weights of the unit (Han et al., arXiv 1506.02626, summed over the structure)."""
    return torch.cat(evidence.weights_UF, dim=1).float().square().sum(1).sqrt()


# Of SCAR (arXiv 2604.23475) the score, the second moment of h * dJ/dh over tokens, is one setting of attribution.
SECOND_MOMENT = {"token_reduction": "square", "example_reduction": "sum", "sign": "signed"}

CRITERIA: dict[str, Formula] = {
    "attribution": Formula("gradients", attribution, _attribution_sums),
    "second_moment": Formula("gradients", attribution, _attribution_sums, fixed=SECOND_MOMENT),
    "reverse": Formula("gradients", reverse, _attribution_sums),
    "surgeon": Formula("moments", surgeon, _attribution_sums, fixed=SECOND_MOMENT),
    "activation": Formula("activations", activation, _activation_sums, normalisation="mean"),
    "wanda": Formula("activations", wanda, _activation_sums, unserved=("head_dims", "layers"), normalisation="mean"),
    "flap": Formula("activations", flap, _activation_sums, unserved=("head_dims", "layers"), normalisation="standard"),
    "gisp": Formula("weight gradients", gisp),
    "random": Formula("weights", random, normalisation="mean"),
    "magnitude": Formula("weights", magnitude, normalisation="mean"),
}
