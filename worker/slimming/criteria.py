"""How important a unit is: one row for each criterion, and one function for each formula.

Shape suffixes: T kept tokens of a batch, E examples, U units of a group, C channels of its contract module's input
(C = U * size), F parameters of one unit, S statistics.

A criterion says what it has to see, adds up over data what a batch shows (`observe`), and turns the sums and the
weights into scores (`conclude`). Sums are float64, so that neither the batches nor their order change a score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor

from worker.slimming.groups import Site

Needs = Literal["weights", "activations", "gradients"]


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
class Evidence:
    """What is known of one group when all batches have been seen."""

    site: Site
    sums_SU: Tensor  # float64; S is 0 where the criterion observes nothing
    num_examples: int
    num_tokens: int
    weights_UF: tuple[Tensor, ...]  # of the contract module first, then of the expanding ones


@dataclass(frozen=True)
class Criterion:
    """One way to score. Units with the lowest scores are removed."""

    needs: Needs
    conclude: Callable[[Evidence, Options], Tensor]  # -> score (U), float32
    observe: Callable[[Observation, Options], Tensor] | None = None  # -> what the batch adds to the sums (S, U)


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


def attribution(evidence: Evidence, options: Options) -> Tensor:
    """A_i = h_i * dJ/dh_i, reduced over tokens and then over examples (Yang et al., arXiv 2205.04157).

    With the example reduction `square` the mean of A_i^2, which neurons on both sides of the decision survive: a
    signed sum over examples cancels those that push for one answer here and for another there.
    """
    sums_U = evidence.sums_SU[0]
    return (sums_U if options.example_reduction == "sum" else sums_U / evidence.num_examples).float()


# --- controls that see no data -------------------------------------------------------------------------------------


def random(evidence: Evidence, options: Options) -> Tensor:
    """Uniform in [0, 1), by seed and site: the control that every criterion has to beat."""
    generator = torch.Generator().manual_seed(crc32(f"{options.seed} {evidence.site}".encode()))
    return torch.rand(evidence.weights_UF[0].shape[0], generator=generator)


def magnitude(evidence: Evidence, options: Options) -> Tensor:
    """||w_i||_2 over all weights of the unit (Han et al., arXiv 1506.02626, summed over the structure)."""
    return torch.cat(evidence.weights_UF, dim=1).float().square().sum(1).sqrt()


CRITERIA: dict[str, Criterion] = {
    "attribution": Criterion(needs="gradients", observe=_attribution_sums, conclude=attribution),
    "random": Criterion(needs="weights", conclude=random),
    "magnitude": Criterion(needs="weights", conclude=magnitude),
}
