"""Re-fit of every module that reads units, at once: W h is to stay what it was, h from the dense model.

Shape suffixes: C channels of a reading module's input, K kept ones, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.linear_readers import Reader, bias_of, readers_of, weight_of, write_kept
from worker.slimming.scoring.second_moments import RIDGE, Moments, Rows, collect, portions
from worker.slimming.units import Group, Site


class Fit(NamedTuple):
    """What a reader becomes: its kept columns (O, K), and its bias (O) where it has one."""

    weight_OK: Tensor
    bias_O: Tensor | None


def least_squares(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Callable[[int, int], None],
) -> None:
    """argmin over W' of E|W h - W' h_K|^2 + r |W' - W_K|^2, for every reader at once, with h of the dense model.

    The tokens of the mean are weighed as in `moments`: those count most that the objective depends on.
    """
    total = passes(model, architecture, kept) * len(rows.batches)
    fit_all(model, architecture, kept, rows, lambda done: on_progress(done, total))


def refit(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    _: Rows,
    moments: Mapping[str, Moments],
    __: Callable[[int, int], None],
) -> None:
    """`least_squares` where the moments are known."""
    for reader in readers_of(model, architecture, kept):
        write_kept(model, reader, *fit(model, reader, moments[reader.path]))


def passes(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> int:
    """Passes over the rows that `fit_all` needs: one for each portion of Gram matrices."""
    return len(_portions(readers_of(model, architecture, kept)))


def fit_all(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_batches: Callable[[int], None],
) -> dict[str, list[Tensor]]:
    """`least_squares`; what is given back is, for each reader's path, the weights of its tokens batch by batch."""
    readers = {reader.path: reader for reader in readers_of(model, architecture, kept)}
    fits: dict[str, Fit] = {}
    weights: dict[str, list[Tensor]] = {}
    for number, part in enumerate(_portions(list(readers.values()))):
        counted_on = _counting_on(on_batches, number * len(rows.batches))
        found = collect(model, part, rows.batches, rows.objective, counted_on)
        fits |= {path: fit(model, readers[path], moments) for path, moments in found.items()}
        weights |= {path: moments.weights_N for path, moments in found.items()}
    for path, fitted in fits.items():
        write_kept(model, readers[path], *fitted)
    return weights


def _counting_on(on_batches: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: on_batches(before + done)


def _portions(readers: Sequence[Reader]) -> list[list[Group]]:
    return portions([reader.groups[0] for reader in readers])


def fit(model: nn.Module, reader: Reader, moments: Moments) -> Fit:
    """The reader fitted to what it writes for inputs of these moments, with all of them.

    Where there is a bias, the moments are those of the deviations from the mean, and the bias takes up the means.
    """
    gram_CC, mean_C, old_bias_O = moments.spread_CC, moments.mean_C, bias_of(model, reader)
    kept_K = reader.stays_C.nonzero().flatten().to(gram_CC.device)
    weight_OC = weight_of(model, reader).double()
    gram_KK = gram_CC[kept_K][:, kept_K]
    fitted_OK = solve(gram_KK, weight_OC @ gram_CC[:, kept_K], weight_OC[:, kept_K], RIDGE)
    if old_bias_O is None:
        return Fit(fitted_OK, None)
    return Fit(fitted_OK, old_bias_O.double() + weight_OC @ mean_C - fitted_OK @ mean_C[kept_K])


def solve(gram_KK: Tensor, cross_OK: Tensor, prior_OK: Tensor, ridge: float) -> Tensor:
    """argmin over W of E|t - W h|^2 + r |W - P|^2 = (C + r P)(G + r I)^-1, in float64 (O, K).

    G = E h h^T, C = E t h^T, P the prior, and r = `ridge` times the mean of G's diagonal: what the rows do not settle
    stays as it was, not near zero.
    """
    strength = ridge * float(gram_KK.diagonal().mean())
    ridge_KK = strength * torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    factor = torch.linalg.cholesky(gram_KK + ridge_KK)
    return torch.cholesky_solve((cross_OK + strength * prior_OK).T, factor).T
