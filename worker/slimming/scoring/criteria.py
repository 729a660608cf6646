"""The formulas of the criteria: how important a unit is. One row of `CRITERIA` and one function for each.

Shape suffixes: B rows of a batch, T positions, E examples, U units of a group, C channels of the group's activation
(C = U * size), N tokens, O outputs, F parameters of one unit, S statistics.

A formula names the quantities that it needs, adds up over the data what each batch contributes (`observe`), and
computes scores from the sums and the weights (`finalize`). Sums are float64, so that the scores depend neither on how
examples are batched nor on the order of the batches. `service.contract.criteria` describes the same criteria for the
API.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worker.slimming.scoring import optimal_brain_surgeon
from worker.slimming.scoring.second_moments import RIDGE, Moments
from worker.slimming.scoring.shrinkage import shrunk
from worker.slimming.units.groups import Site

Needs = Literal["weights", "activations", "stream", "gradients", "weight gradients", "moments"]


@dataclass(frozen=True)
class Options:
    """The options of a criterion, named as the fields of `method` in a request."""

    objective: str = "margin"
    token_reduction: str = "sum"
    sign: str = "signed"
    example_reduction: str = "square"
    seed: int = 0
    selectivity: str = "difference"


@dataclass(frozen=True)
class Observation:
    """The activations of one group on one batch, and their gradients for the formulas that need these."""

    activation_BTC: Tensor
    gradient_BTC: Tensor | None
    mask_BT: Tensor
    example_B: Tensor
    num_examples: int
    size: int  # channels of a unit
    # The hidden states in front of a layer, whose activation is what it adds to them. Only without gradients.
    before_BTC: Tensor | None = None

    @property
    def product_BTU(self) -> Tensor:
        """h * dJ/dh of every unit."""
        assert self.gradient_BTC is not None
        product_BTC = self.activation_BTC.float() * self.gradient_BTC
        return product_BTC if self.size == 1 else product_BTC.view(*product_BTC.shape[:2], -1, self.size).sum(-1)


@dataclass(frozen=True)
class ExpertObservation:
    """What the experts of a layer did with the tokens of one batch."""

    expert_BTK: Tensor  # the numbers of the experts that each token is sent to
    gate_BTK: Tensor
    norm_BTK: Tensor  # of the output of each of these experts, before it is multiplied with its gate
    effect_BTK: Tensor | None  # product of what each adds and its gradient, for the formulas that need gradients
    change_BT: Tensor | None  # 1 - cos of the residual stream before and behind, for the formulas that need the stream
    mask_BT: Tensor
    example_B: Tensor
    num_examples: int
    count: int  # experts of the layer

    def per_expert(self, value_BTK: Tensor) -> Tensor:
        """The values of the K experts of each token at the places of these experts, zero for the others (B, T, U)."""
        none_BTU = value_BTK.new_zeros(*value_BTK.shape[:2], self.count)
        return none_BTU.scatter_(2, self.expert_BTK, value_BTK)

    @property
    def product_BTU(self) -> Tensor:
        """h * dJ/dh of every expert: h is what it adds to the output of the block."""
        assert self.effect_BTK is not None
        return self.per_expert(self.effect_BTK)


@dataclass(frozen=True)
class Statistics:
    """What the scores of one group are computed from, after all batches."""

    site: Site
    count: int  # units
    size: int  # channels of a unit
    sums: Tensor  # float64, (S, U) or (S, C), of what `observe` returned; empty without `observe`
    num_examples: int
    num_tokens: int
    weights_UF: tuple[Tensor, ...]  # matrix by matrix; the first one is multiplied with the activation
    gradients_UF: tuple[Tensor, ...] = ()  # dJ/dW, summed over the examples
    moments: Moments | None = None  # of the module that reads the activation
    general: "Statistics | None" = None  # the same on general rows, for a formula that compares

    @property
    def reading_CO(self) -> Tensor:
        """The weights that each channel is multiplied with, float32."""
        return self.weights_UF[0].float().reshape(self.count * self.size, -1)

    def per_unit(self, value_C: Tensor) -> Tensor:
        """Sum over the channels of each unit (U)."""
        return value_C.view(self.count, self.size).sum(1)


@dataclass(frozen=True)
class Formula:
    """The formula of a criterion. Units with the lowest scores are removed."""

    needs: Needs
    finalize: Callable[[Statistics, Options], Tensor]  # -> score (U)
    observe: Callable[[Observation, Options], Tensor] | None = None  # -> what a batch adds to the sums
    observe_experts: Callable[[ExpertObservation, Options], Tensor] | None = None  # the same, of the unit experts
    fixed: Mapping[str, Any] = field(default_factory=dict)  # options that the caller cannot choose
    unserved: tuple[str, ...] = ()  # kinds of units that the formula does not cover
    # A key of `allocation.NORMALISATIONS`: makes scores of different groups comparable in a global rank.
    normalisation: str = "none"
    needs_general: bool = False  # whether it compares the statistics with those on general rows

    def options(self, options: Options) -> Options:
        """The options that apply: those of the caller, and the fixed ones in place of theirs."""
        return replace(options, **self.fixed)


# --- attribution ---------------------------------------------------------------------------------------------------


def _attribution_sums(observation: Observation | ExpertObservation, options: Options) -> Tensor:
    """Sum over the batch's examples of the example reduction of the token reduction of h * dJ/dh (1, U)."""
    product_ETU, mask_ET = _products(observation)
    if options.sign == "absolute":
        product_ETU = product_ETU.abs_()
    reduced_EU = TOKEN_REDUCTIONS[options.token_reduction](product_ETU, mask_ET)
    return EXAMPLE_REDUCTIONS[options.example_reduction](reduced_EU.double()).unsqueeze(0)


def _products(observation: Observation | ExpertObservation) -> tuple[Tensor, Tensor]:
    """h * dJ/dh of every unit, zero at padding (E, T, U), and a mask of the positions of each example (E, T).

    The rows of one example differ in the candidate that follows the prompt. The products of a position are summed over
    these rows, since a removed unit is missing in all of them.
    """
    product_BTU = observation.product_BTU
    product_BTU.masked_fill_(~observation.mask_BT.unsqueeze(-1), 0)
    if observation.num_examples == observation.example_B.numel():
        # One row each; the reductions do not depend on the order of the examples.
        return product_BTU, observation.mask_BT
    shape = (observation.num_examples, *product_BTU.shape[1:])
    product_ETU = product_BTU.new_zeros(shape).index_add_(0, observation.example_B, product_BTU)
    rows_ET = torch.zeros_like(product_ETU[:, :, 0]).index_add_(0, observation.example_B, observation.mask_BT.float())
    return product_ETU, rows_ET > 0


def _mean(product_ETU: Tensor, mask_ET: Tensor) -> Tensor:
    return product_ETU.sum(1) / mask_ET.sum(1, keepdim=True)


def _max(product_ETU: Tensor, mask_ET: Tensor) -> Tensor:
    return product_ETU.masked_fill(~mask_ET.unsqueeze(-1), -torch.inf).amax(1)


# Products at padding are zero, so that sums need no mask.
TOKEN_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda product_ETU, mask_ET: product_ETU.sum(1),
    "mean": _mean,
    "max": _max,
    "square": lambda product_ETU, mask_ET: product_ETU.square().sum(1),
}

EXAMPLE_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda reduced_EU: reduced_EU.sum(0),
    "square": lambda reduced_EU: reduced_EU.square().sum(0),
}


def attribution(statistics: Statistics, options: Options) -> Tensor:
    """A_i = h_i * dJ/dh_i, reduced over tokens and then over examples (Yang et al., arXiv 2205.04157).

    With the example reduction `square` it is the mean of A_i^2. In a signed sum over examples, the contributions of a
    neuron that supports one answer in some examples and another answer in others cancel.
    """
    return statistics.sums[0] if options.example_reduction == "sum" else statistics.sums[0] / statistics.num_examples


def reverse(statistics: Statistics, options: Options) -> Tensor:
    """-A_i: removes first the units that attribution removes last. A control, which every criterion has to exceed."""
    return -attribution(statistics, options)


# --- the optimal brain surgeon -------------------------------------------------------------------------------------


def surgeon(statistics: Statistics, options: Options) -> Tensor:
    """E[(dJ/dh_i)^2] * Var(h_i | the units that are left), unit after unit: see `optimal_brain_surgeon`.

    The optimal brain surgeon (Hassibi and Stork, NIPS 1992) with Kronecker factors (Martens and Grosse, 2015), over
    tokens with the weights of `second_moments`. It takes into account that a repair by least squares follows the cut.
    With few tokens it counts less on what the units seem to predict of each other (`shrinkage`).
    Query dimensions and layers are not the inputs of a linear module; their score is E[(h_i * dJ/dh_i)^2].
    """
    moments = statistics.moments
    if moments is None:
        return statistics.sums[0] / statistics.num_tokens
    assert moments.effect_OO is not None
    spread_CC = shrunk(moments.spread_CC, moments.num_tokens)
    spread_CC.diagonal().add_(RIDGE * float(spread_CC.diagonal().mean() or 1.0))  # 1.0: no unit is active
    effect_OO = moments.effect_OO / moments.num_tokens
    return optimal_brain_surgeon.costs(statistics.reading_CO.T, spread_CC, effect_OO, statistics.size)


# --- activations ---------------------------------------------------------------------------------------------------


def _activation_sums(observation: Observation, options: Options) -> Tensor:
    """Sums over tokens of |h|, h and h^2 (3, C)."""
    activation_NC = observation.activation_BTC[observation.mask_BT].double()
    return torch.stack([activation_NC.abs().sum(0), activation_NC.sum(0), activation_NC.square().sum(0)])


def activation(statistics: Statistics, options: Options) -> Tensor:
    """Mean over tokens of |h_c|, summed over the unit's channels (as Minitron, arXiv 2407.14679)."""
    return statistics.per_unit(statistics.sums[0] / statistics.num_tokens)


def selectivity(statistics: Statistics, options: Options) -> Tensor:
    """How much more active a unit is on the rows of the task than on general rows (after Siam et al., 2604.27115).

    With the mean a and the variance v over tokens of |h_c|, both summed over the unit's channels, on the task's rows
    (T) and on general rows (G): a_T - a_G, a_T / a_G, or (a_T - a_G) / sqrt(v_T + v_G). The paper's text is silent on
    the form; raw differences favour layers with large activations, which the others do not.
    """
    assert statistics.general is not None
    (mean_U, variance_U), (other_U, other_variance_U) = _size_moments(statistics), _size_moments(statistics.general)
    return SELECTIVITIES[options.selectivity](mean_U - other_U, mean_U, other_U, variance_U + other_variance_U)


def _size_moments(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """The mean and the variance over tokens of |h_c|, summed over the unit's channels (U)."""
    mean_C, square_C = statistics.sums[0] / statistics.num_tokens, statistics.sums[2] / statistics.num_tokens
    return statistics.per_unit(mean_C), statistics.per_unit((square_C - mean_C.square()).clamp_min(0))


TINY = torch.finfo(torch.float32).tiny  # in place of a zero divisor
SELECTIVITIES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "difference": lambda difference_U, mean_U, other_U, variance_U: difference_U,
    "ratio": lambda difference_U, mean_U, other_U, variance_U: mean_U / other_U.clamp_min(TINY),
    "standardised": lambda difference_U, mean_U, other_U, variance_U: difference_U / variance_U.sqrt().clamp_min(TINY),
}


def norm(statistics: Statistics, options: Options) -> Tensor:
    """The root mean square over tokens of a unit's activation."""
    return (statistics.per_unit(statistics.sums[2]) / statistics.num_tokens).sqrt()


def wanda(statistics: Statistics, options: Options) -> Tensor:
    """||h_c||_2 * mean over outputs of |W_oc| (Wanda, arXiv 2306.11695, with its weights summed over the structure)."""
    return statistics.per_unit(statistics.sums[2].sqrt() * statistics.reading_CO.abs().mean(1))


def flap(statistics: Statistics, options: Options) -> Tensor:
    """Var(h_c) * ||W_:c||_2^2, standardised over the group (FLAP's WIFV, arXiv 2312.11983).

    The standardisation changes no rank within a group; FLAP uses it to compare layers in a global rank.
    """
    mean_C, square_C = statistics.sums[1] / statistics.num_tokens, statistics.sums[2] / statistics.num_tokens
    raw_U = statistics.per_unit((square_C - mean_C.square()).clamp_min(0) * statistics.reading_CO.square().sum(1))
    spread = raw_U.std(correction=0)
    return (raw_U - raw_U.mean()) / spread if spread > 0 else torch.zeros_like(raw_U)


def _cosine_sums(observation: Observation, options: Options) -> Tensor:
    """Sum over tokens of the cosine between the hidden states in front of a layer and behind it (1, 1)."""
    assert observation.before_BTC is not None
    before_NC = observation.before_BTC[observation.mask_BT].double()
    after_NC = before_NC + observation.activation_BTC[observation.mask_BT].double()
    return cosine_similarity(before_NC, after_NC, dim=1).sum().view(1, 1)


def block_influence(statistics: Statistics, options: Options) -> Tensor:
    """BI = 1 - E[cos(x_t, y_t)] over tokens t, for a layer with the input x and the output y (ShortGPT, 2403.03853)."""
    return 1 - statistics.sums[0] / statistics.num_tokens


# --- routing -------------------------------------------------------------------------------------------------------


def _routing_sums(observation: ExpertObservation, options: Options) -> Tensor:
    """Sums over tokens, for each expert, of 1, of its gate, and of its gate times the norm of its output (3, U)."""
    gate_BTK = observation.gate_BTK * observation.mask_BT.unsqueeze(2)
    is_sent_BTK = observation.mask_BT.unsqueeze(2).expand_as(gate_BTK).float()
    values = (is_sent_BTK, gate_BTK, gate_BTK * observation.norm_BTK)
    return torch.stack([observation.per_expert(value_BTK).double().sum((0, 1)) for value_BTK in values])


def frequency(statistics: Statistics, options: Options) -> Tensor:
    """The share of the tokens that the router sends to the expert (the baseline of UNCURL, arXiv 2409.01483)."""
    return statistics.sums[0] / statistics.num_tokens


def router_weight(statistics: Statistics, options: Options) -> Tensor:
    """Sum over tokens of g_e, the gate of the expert after the router's own normalisation; 0 where it is not chosen."""
    return statistics.sums[1]


def reap(statistics: Statistics, options: Options) -> Tensor:
    """Mean over the tokens that are sent to the expert of g_e * ||f_e(x)||_2 (REAP, arXiv 2510.13999, equation 9).

    An expert that no token is sent to has the score 0.
    """
    return statistics.sums[2] / statistics.sums[0].clamp_min(1)


def _easy_ep_sums(observation: ExpertObservation, options: Options) -> Tensor:
    """Sum over tokens of each expert's gate, times the norm of its output, times the change of the stream (1, U)."""
    assert observation.change_BT is not None
    change_BT1 = (observation.change_BT * observation.mask_BT).unsqueeze(2)
    value_BTK = observation.gate_BTK * observation.norm_BTK * change_BT1
    return observation.per_expert(value_BTK).double().sum((0, 1)).unsqueeze(0)


def easy_ep(statistics: Statistics, options: Options) -> Tensor:
    """Sum over tokens of g_e * ||f_e(x)||_2 * max(1 - cos(h, h'), 0) (EASY-EP, arXiv 2504.06792).

    h and h' are the residual stream before and behind the block: tokens that it changes more count more.
    """
    return statistics.sums[0]


# --- weights and their gradients -----------------------------------------------------------------------------------


def gisp(statistics: Statistics, options: Options) -> Tensor:
    """Sum over the unit's weights of |w * dJ/dw|, the first-order change of J if w becomes zero (GISP, 2510.18030).

    J is the sum of the objective over all examples. The paper removes units in many small steps and computes the
    scores again before each (`iterative`).
    """
    pairs = zip(statistics.weights_UF, statistics.gradients_UF, strict=True)
    return torch.stack([(weight_UF.float() * gradient_UF).abs().sum(1) for weight_UF, gradient_UF in pairs]).sum(0)


# --- without data --------------------------------------------------------------------------------------------------


def random(statistics: Statistics, options: Options) -> Tensor:
    """Uniform in [0, 1), drawn by seed and site: a control, which every criterion has to exceed."""
    generator = torch.Generator().manual_seed(crc32(f"{options.seed} {statistics.site}".encode()))
    return torch.rand(statistics.count, generator=generator)


def magnitude(statistics: Statistics, options: Options) -> Tensor:
    """||w_i||_2 over all weights of the unit (Han et al., arXiv 1506.02626, summed over the structure)."""
    return torch.cat(statistics.weights_UF, dim=1).float().square().sum(1).sqrt()


# The score of SCAR (arXiv 2604.23475), the second moment of h * dJ/dh over tokens, is one setting of attribution.
SECOND_MOMENT = {"token_reduction": "square", "example_reduction": "sum", "sign": "signed"}

NORM = Formula("activations", norm, _activation_sums)  # no criterion of its own

# Units that are not the input of a linear module, and units of which each token reaches some alone.
WITHOUT_CONSUMER = ("head_dims", "layers", "experts")
ALL_BUT_LAYERS = ("ffn", "heads", "head_dims", "experts")
ALL_BUT_EXPERTS = ("ffn", "heads", "head_dims", "layers")

CRITERIA: dict[str, Formula] = {
    "attribution": Formula("gradients", attribution, _attribution_sums, _attribution_sums),
    "second_moment": Formula("gradients", attribution, _attribution_sums, _attribution_sums, fixed=SECOND_MOMENT),
    "reverse": Formula("gradients", reverse, _attribution_sums, _attribution_sums),
    "surgeon": Formula("moments", surgeon, _attribution_sums, fixed=SECOND_MOMENT, unserved=("experts",)),
    "activation": Formula("activations", activation, _activation_sums, unserved=("experts",), normalisation="mean"),
    "selectivity": Formula(
        "activations",
        selectivity,
        _activation_sums,
        unserved=("experts",),
        normalisation="standard",
        needs_general=True,
    ),
    "wanda": Formula("activations", wanda, _activation_sums, unserved=WITHOUT_CONSUMER, normalisation="mean"),
    "flap": Formula("activations", flap, _activation_sums, unserved=WITHOUT_CONSUMER, normalisation="standard"),
    "frequency": Formula("activations", frequency, None, _routing_sums, unserved=ALL_BUT_EXPERTS, normalisation="mean"),
    "router_weight": Formula(
        "activations", router_weight, None, _routing_sums, unserved=ALL_BUT_EXPERTS, normalisation="mean"
    ),
    "reap": Formula("activations", reap, None, _routing_sums, unserved=ALL_BUT_EXPERTS, normalisation="mean"),
    "easy_ep": Formula("stream", easy_ep, None, _easy_ep_sums, unserved=ALL_BUT_EXPERTS, normalisation="mean"),
    "gisp": Formula("weight gradients", gisp),
    "block_influence": Formula("activations", block_influence, _cosine_sums, unserved=ALL_BUT_LAYERS),
    "random": Formula("weights", random, normalisation="mean"),
    "magnitude": Formula("weights", magnitude, normalisation="mean"),
}
