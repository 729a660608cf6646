"""Least squares: fit the kept columns of every consumer to what it wrote in the dense model.

A consumer computes y = W h + b. With K the input channels that stay, its kept columns become

    argmin over W' of  E|W h - W' h_K|^2 + r |W' - W_K|^2,

ridge regression towards the old columns (reconstruction by linear least squares: He, Zhang and Sun, ICCV 2017, arXiv
1707.06168), with h from the dense model and E the weighted mean over the tokens of the calibration rows.
`second_moments` has the weights: the tokens that the objective depends on count most. A bias takes up the means.

Shape suffixes: C input channels of a consumer, K input channels that stay, O output channels, N tokens of a batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.repair import ridge
from worker.slimming.repair.consumers import Consumer, bias_of, replace_kept_columns, weight_of
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.scoring.second_moments import RIDGE, Moments, collect, portions
from worker.slimming.streaming.mapped import beside
from worker.slimming.units import Group


class Fit(NamedTuple):
    """The fitted columns of a consumer, and its bias where it has one."""

    weight_OK: Tensor
    bias_O: Tensor | None


def least_squares(repair_input: RepairInput) -> None:
    """Fit every consumer to its output in the dense model."""
    parts = unmeasured(repair_input)
    total = len(parts) * len(repair_input.calibration.batches)
    fit_consumers(repair_input, parts, lambda done: repair_input.on_progress(done, total))


def unmeasured(repair_input: RepairInput) -> list[list[Group]]:
    """The groups whose moments a repair has to measure, in portions that take a pass over the rows each."""
    if repair_input.moments is not None:
        return []
    return portions(repair_input.model, [consumer.groups[0] for consumer in repair_input.consumers])


def fit_consumers(
    repair_input: RepairInput, parts: Sequence[Sequence[Group]], on_batches: Callable[[int], None]
) -> dict[str, list[Tensor]]:
    """Fit every consumer; returns the weights of the tokens: path of a consumer -> one tensor (N) for each batch.

    `parts` are the groups that `unmeasured` returns; `on_batches` is called with the number of batches done, over all
    passes.
    """
    fits: Iterable[tuple[Consumer, list[Tensor], Fit]] = _fits(repair_input, parts, on_batches)
    if repair_input.moments is None:
        # Each pass has to run the dense model: replace nothing before the last one.
        fits = [(consumer, weights_N, _stored(repair_input.model, consumer, fit)) for consumer, weights_N, fit in fits]
    weights: dict[str, list[Tensor]] = {}
    for consumer, weights_N, fitted in fits:
        replace_kept_columns(repair_input.model, consumer, *fitted)
        weights[consumer.path] = weights_N
    return weights


def _stored(model: nn.Module, consumer: Consumer, fitted: Fit) -> Fit:
    """The fit in the dtype of the model, and in a file where the model's weights are in files."""
    old = weight_of(model, consumer)
    return fitted._replace(weight_OK=beside(old, fitted.weight_OK.to(old.dtype)))


def _fits(
    repair_input: RepairInput, parts: Sequence[Sequence[Group]], on_batches: Callable[[int], None]
) -> Iterator[tuple[Consumer, list[Tensor], Fit]]:
    """(consumer, weights of its tokens, its fit) of each consumer."""
    consumers = {consumer.path: consumer for consumer in repair_input.consumers}
    for moments in _moments(repair_input, parts, on_batches):
        for path, known in moments.items():
            yield consumers[path], known.weights_N, fit(repair_input.model, consumers[path], known)


def _moments(
    repair_input: RepairInput, parts: Sequence[Sequence[Group]], on_batches: Callable[[int], None]
) -> Iterator[Mapping[str, Moments]]:
    """The moments of the consumers' inputs: the given ones at once, or those of each pass over the rows."""
    if repair_input.moments is not None:
        yield {consumer.path: repair_input.moments[consumer.path] for consumer in repair_input.consumers}
        return
    calibration = repair_input.calibration
    for number, portion in enumerate(parts):
        yield collect(
            repair_input.model,
            portion,
            calibration.batches,
            calibration.objective,
            _offset(on_batches, number * len(calibration.batches)),
        )


def _offset(on_batches: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: on_batches(before + done)


def fit(model: nn.Module, consumer: Consumer, moments: Moments) -> Fit:
    """The kept columns and the bias that come nearest to the consumer's output for inputs of these moments.

    Where there is a bias, the moments are those of the deviations from the mean, and the bias takes up the means.
    """
    gram_CC, mean_C, old_bias_O = moments.spread_CC, moments.mean_C, bias_of(model, consumer)
    kept_K = consumer.stays_C.nonzero().flatten().to(gram_CC.device)
    weight_OC = weight_of(model, consumer).double()
    gram_KK = gram_CC[kept_K][:, kept_K]
    strength = ridge.share(len(kept_K), moments.num_tokens, RIDGE)
    fitted_OK = solve(gram_KK, weight_OC @ gram_CC[:, kept_K], weight_OC[:, kept_K], strength)
    if old_bias_O is None:
        return Fit(fitted_OK, None)
    return Fit(fitted_OK, old_bias_O.double() + weight_OC @ mean_C - fitted_OK @ mean_C[kept_K])


def solve(gram_KK: Tensor, cross_OK: Tensor, prior_OK: Tensor, strength: float) -> Tensor:
    """argmin over W of E|t - W h|^2 + r |W - P|^2 = (C + r P)(G + r I)^-1, in float64 (O, K).

    G = E[h h^T], C = E[t h^T], P the prior, and r = `strength` times the mean of G's diagonal: directions that the rows
    do not determine stay at the prior instead of near zero.
    """
    r = strength * float(gram_KK.diagonal().mean() or 1.0)  # inputs that are all zero determine no direction
    identity_KK = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    factor = torch.linalg.cholesky(gram_KK + r * identity_KK)
    return torch.cholesky_solve((cross_OK + r * prior_OK).T, factor).T
