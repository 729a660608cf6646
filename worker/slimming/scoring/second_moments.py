"""What calibration rows say of the modules that read units: how their inputs vary together, and how much it matters.

A module reads units h and writes y = W h + b. Of its inputs the second moments over tokens are kept, which tell how far
some units can stand in for others; of its outputs, on request, those of the gradient g = dJ/dy, which tell how much the
objective J minds a change of y. The sums are small beside the activations and are added up batch by batch.

Not every token matters as much: what is written behind most of a prompt's words never reaches the answer. A token
weighs 1/2 + 1/2 * |g|^2 / (mean of |g|^2 over its row), so that half of a fit goes to what the answer depends on and
half to what the model computes anyway, and every row counts by its length.

Shape suffixes: B rows of a batch, T positions, N tokens, C channels of a module's input, O of its output.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.hooks import watch
from worker.slimming.scoring.objectives import OBJECTIVES, Batch, token_log_probabilities
from worker.slimming.units import Group

BY_GRADIENT = 0.5  # share of a token's weight that its gradient decides
RIDGE = 0.01  # of the mean of a spread's diagonal, for what the rows do not settle
GRAM_BYTES = 4 * 2**30  # of matrices that are held at once; more cost another pass over the data


class Rows(NamedTuple):
    """Calibration rows, and the objective that tells which of their tokens matter (a key of OBJECTIVES)."""

    batches: Sequence[Batch]
    objective: str


@dataclass
class Moments:
    """Sums over the tokens that one module reads; float64 for vectors, float32 for matrices."""

    centred: bool  # the module has a bias, which takes up the means
    num_tokens: int
    weight: float  # of all tokens together
    sum_C: Tensor  # weighted
    gram_CC: Tensor | None  # weighted sum of h h^T; a mere mean needs none
    effect_OO: Tensor | None  # sum of g g^T
    weights_N: list[Tensor] = field(default_factory=list)  # of the tokens, batch by batch; none where each weighs 1

    @property
    def mean_C(self) -> Tensor:
        """Weighted mean of the input."""
        return self.sum_C / self.weight

    @property
    def spread_CC(self) -> Tensor:
        """Weighted mean of h h^T, of the deviations from the mean where a bias takes up the mean; float64."""
        assert self.gram_CC is not None
        mean_CC = self.gram_CC.double() / self.weight
        return mean_CC - self.mean_C.outer(self.mean_C) if self.centred else mean_CC

    def add(self, activation_NC: Tensor, weight_N: Tensor | None = None) -> None:
        """Add a batch's tokens, each of weight 1 unless given."""
        self.num_tokens += activation_NC.shape[0]
        weighted_NC = activation_NC.float()
        if weight_N is None:
            self.weight += activation_NC.shape[0]
        else:
            self.weight += float(weight_N.sum())
            self.weights_N.append(weight_N)
            weighted_NC = weighted_NC * weight_N.unsqueeze(1)
        self.sum_C += weighted_NC.sum(0, dtype=torch.float64)
        if self.gram_CC is not None:
            self.gram_CC.addmm_(weighted_NC.T, activation_NC.float())

    def add_effects(self, gradient_NO: Tensor) -> None:
        """Add the gradients of tokens that `add` has counted."""
        if self.effect_OO is not None:
            self.effect_OO.addmm_(gradient_NO.float().T, gradient_NO.float())


def portions(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups in portions whose Gram matrices fit into GRAM_BYTES together."""
    parts: list[list[Group]] = []
    used = 0
    for group in groups:
        size = 4 * (group.count * group.size) ** 2
        if not parts or used + size > GRAM_BYTES:
            parts.append([])
            used = 0
        parts[-1].append(group)
        used += size
    return parts


def collect(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Batch],
    objective: str | None,
    on_batches: Callable[[int], None] = lambda done: None,
    *,
    grams: bool = True,
    effects: bool = False,
) -> dict[str, Moments]:
    """Path of a module -> its moments over all batches, for the modules that read `groups` (ports "input").

    One forward pass, and a backward pass where an `objective` weighs the tokens; with None each weighs 1. Call within
    `attribution.prepared`. `on_batches` hears how many are done.
    """
    readers = {group.watched: group for group in groups}
    found = {path: _empty(model, group, grams, effects) for path, group in readers.items()}
    for done, batch in enumerate(batches, 1):
        with ExitStack() as hooks, torch.set_grad_enabled(objective is not None):
            for path, group in readers.items():
                watched = _weighing if objective else _counting
                hooks.enter_context(watched(model, group, batch, found[path]))
            log_probability_M = token_log_probabilities(model, batch)
            if objective:
                torch.autograd.backward(OBJECTIVES[objective](log_probability_M, batch).sum())
        on_batches(done)
    return found


def _empty(model: nn.Module, group: Group, grams: bool, effects: bool) -> Moments:
    weight, inputs = model.get_parameter(f"{group.watched}.weight"), group.slabs[0].dim
    num_in, num_out = weight.shape[inputs], weight.shape[1 - inputs]
    return Moments(
        centred=isinstance(model.get_submodule(group.watched).bias, Tensor),
        num_tokens=0,
        weight=0.0,
        sum_C=weight.new_zeros(num_in, dtype=torch.float64),
        gram_CC=weight.new_zeros((num_in, num_in), dtype=torch.float32) if grams else None,
        effect_OO=weight.new_zeros((num_out, num_out), dtype=torch.float32) if effects else None,
    )


@contextmanager
def _counting(model: nn.Module, group: Group, batch: Batch, moments: Moments) -> Iterator[None]:
    """Every token weighs 1."""
    mask_BT = batch.masks[group.site.stack]

    def see(activation: Tensor, _: Tensor | None) -> None:
        moments.add(activation.reshape(*mask_BT.shape, -1)[mask_BT])

    with watch(model, group, see):
        yield


@contextmanager
def _weighing(model: nn.Module, group: Group, batch: Batch, moments: Moments) -> Iterator[None]:
    """A token's weight is known when the gradient of what the module wrote there comes."""
    mask_BT = batch.masks[group.site.stack]
    seen: list[Tensor] = []

    def see(activation: Tensor, _: Tensor | None) -> Tensor:
        seen[:] = [activation.detach().reshape(*mask_BT.shape, -1)[mask_BT]]
        # Nothing before the first module asks for a gradient, so that the pass back ends at its input.
        return activation if activation.requires_grad else activation.detach().requires_grad_()

    def weigh(gradient: Tensor) -> None:
        gradient_BTO = gradient.reshape(*mask_BT.shape, -1)
        moments.add(seen.pop(), token_weights(gradient_BTO, mask_BT)[mask_BT])
        moments.add_effects(gradient_BTO[mask_BT])

    def follow(_: nn.Module, __: object, output: Tensor) -> None:
        output.register_hook(weigh)

    handle = model.get_submodule(group.watched).register_forward_hook(follow)
    try:
        with watch(model, group, see):
            yield
    finally:
        handle.remove()


def token_weights(gradient_BTO: Tensor, mask_BT: Tensor) -> Tensor:
    """1/2 + 1/2 * |g|^2 / (mean of |g|^2 over the row's tokens); 1/2 in a row that J does not depend on (B, T)."""
    square_BT = gradient_BTO.float().square().sum(-1).masked_fill(~mask_BT, 0)
    mean_B1 = square_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)
    return 1 - BY_GRADIENT + BY_GRADIENT * square_BT / mean_B1.clamp_min(torch.finfo(torch.float32).tiny)
