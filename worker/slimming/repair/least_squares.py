"""Least squares: fit the kept columns of every consumer to what it wrote in the dense model.

A consumer computes y = W h + b. With K the input channels that stay, its kept columns become

    argmin over W' of  E|W h - W' h_K|^2 + r |W' - W_K|^2,

ridge regression towards the old columns (reconstruction by linear least squares: He, Zhang and Sun, ICCV 2017, arXiv
1707.06168), with h from the dense model and E the weighted mean over the tokens of the calibration rows.
`second_moments` has the weights: the tokens that the objective depends on count most. A bias takes up the means.

Shape suffixes: C input channels of a consumer, K input channels that stay, O output channels, N tokens of a batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from worker.slimming.repair import expert_fits, ridge
from worker.slimming.repair.consumers import Consumer, bias_of, replace_kept_columns, weight_of
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.scoring.second_moments import RIDGE, Moments, collect, portions
from worker.slimming.streaming.mapped import beside
from worker.slimming.units.groups import Group


class Fit(NamedTuple):
    """The fitted columns of a consumer, and its bias where it has one."""

    weight_OK: Tensor
    bias_O: Tensor | None


def least_squares(repair_input: RepairInput) -> None:
    """Fit every consumer, and every expert, to its output in the dense model."""
    passes = first_passes(repair_input)
    fit_first(repair_input, passes, lambda done: repair_input.on_progress(done, passes.num_batches))


@dataclass(frozen=True)
class FirstPasses:
    """The groups whose moments a repair has to measure, in portions that take a pass over the rows each."""

    experts: list[list[Group]]
    consumers: list[list[Group]]
    in_pass: int  # batches

    @property
    def num_batches(self) -> int:
        """The batches of all passes."""
        return (len(self.experts) + len(self.consumers)) * self.in_pass


def first_passes(repair_input: RepairInput) -> FirstPasses:
    """The passes that `fit_first` takes."""
    return FirstPasses(
        expert_fits.portions(repair_input), unmeasured(repair_input), len(repair_input.calibration.batches)
    )


def fit_first(
    repair_input: RepairInput, passes: FirstPasses, on_batches: Callable[[int], None]
) -> dict[str, list[Tensor]]:
    """Fit every expert and every consumer to what it wrote in the dense model; returns as `fit_consumers`."""
    experts = expert_fits.fit_experts(repair_input, passes.experts, on_batches)
    before = len(passes.experts) * passes.in_pass
    weights = fit_consumers(repair_input, passes.consumers, lambda done: on_batches(before + done))
    expert_fits.replace_experts(repair_input.model, experts)
    return weights


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
    fitted_OK = ridge.solve(gram_KK, weight_OC @ gram_CC[:, kept_K], weight_OC[:, kept_K], strength)
    if old_bias_O is None:
        return Fit(fitted_OK, None)
    return Fit(fitted_OK, old_bias_O.double() + weight_OC @ mean_C - fitted_OK @ mean_C[kept_K])
