"""The sums of a formula for the neurons within experts: those of each expert over the tokens that are sent to it.

The activation of a neuron is the gated one of `experts.neurons`, zero at all other tokens. Formulas thus treat the
neurons of an expert as they treat those of a feed-forward block, and an expert that no token is sent to has zero sums.

Shape suffixes as in criteria.py and experts/neurons.py.
"""

from torch import Tensor

from worker.slimming.experts.neurons import RoutedTokens
from worker.slimming.scoring.criteria import Formula, Observation, Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.groups import Group


def neuron_sums(
    formula: Formula, options: Options, group: Group, batch: Batch, sent: RoutedTokens, gradient_ND: Tensor | None
) -> Tensor:
    """What one batch adds to the sums of the formula (S, U), float64; the gradient is that of the experts' output."""
    assert formula.observe is not None
    mask_BT, sums_SEI = batch.masks[group.site.stack], None
    for tokens in sent.by_expert(mask_BT.flatten()):
        gradient_MI = None if gradient_ND is None else tokens.gradient_MI(gradient_ND)
        seen = Observation(
            activation_BTC=_placed(tokens.activation_MI, tokens.token_M, mask_BT),
            gradient_BTC=None if gradient_MI is None else _placed(gradient_MI, tokens.token_M, mask_BT),
            mask_BT=mask_BT,
            example_B=batch.example_B,
            num_examples=batch.num_examples,
            size=group.size,
        )
        sums_SI = formula.observe(seen, options)
        if sums_SEI is None:
            sums_SEI = sums_SI.new_zeros(len(sums_SI), group.rows, sums_SI.shape[1])
        sums_SEI[:, tokens.expert] = sums_SI
    assert sums_SEI is not None  # every batch has a token
    return sums_SEI.flatten(1)


def _placed(value_MI: Tensor, token_M: Tensor, mask_BT: Tensor) -> Tensor:
    """The values at the places of their tokens, and zero elsewhere (B, T, I)."""
    value_NI = value_MI.new_zeros(mask_BT.numel(), value_MI.shape[1]).index_copy_(0, token_M, value_MI)
    return value_NI.view(*mask_BT.shape, -1)
