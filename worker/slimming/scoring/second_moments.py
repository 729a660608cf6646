"""Second moments of the inputs and of the output gradients of linear modules, over the tokens of calibration rows.

A module computes y = W h + b from the units h. The second moments of h show how well some units can be predicted from
others. Those of the gradient g = dJ/dy, computed on request, show how much the objective J depends on y. They are added
up batch by batch, so that no activations have to be stored.

Tokens have weights, since the output at most words of a prompt hardly influences the answer. The weight of a token is
1/2 + 1/2 * |g|^2 / (mean of |g|^2 over its row). The first half is the same for all tokens, the second is larger where
the answer depends on the token, and the weight of a row is its length. A batch may give all its tokens a weight, which
they are multiplied with.

Shape suffixes: B rows of a batch, T positions, N tokens, C channels of a module's input, O of its output, M scored
tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from worker.slimming.free_memory import budget
from worker.slimming.gram import add_gram
from worker.slimming.hooks import watch
from worker.slimming.scoring.objectives import Batch, objective_values, token_scores
from worker.slimming.units.groups import Group

BY_GRADIENT = 0.5  # share of a token's weight that depends on its gradient
RIDGE = 0.01  # added to the diagonal of a spread, as a share of the diagonal's mean, so that it can be inverted


@dataclass
class Moments:
    """Sums over the input tokens of one module: vectors in float64, matrices in float32.

    For a module with a bias the sums are of deviations from the mean of the first batch. The covariance is then a
    difference of small numbers, which float32 can hold however far from zero the mean is.
    """

    centred: bool  # whether the module has a bias, which can absorb the means
    num_tokens: int
    weight: float  # sum of the weights of all tokens
    origin_C: Tensor  # subtracted from every input; zero without a bias
    sum_C: Tensor  # weighted
    # Weighted sum of h h^T; None if only the mean is needed. It may be on the host, where that has more room.
    gram_CC: Tensor | None
    effect_OO: Tensor | None  # sum of g g^T
    # The weights of the tokens, batch by batch; empty if each is 1.
    weights_N: list[Tensor] = field(default_factory=list)

    @property
    def mean_C(self) -> Tensor:
        """Weighted mean of the input."""
        return self.origin_C + self.sum_C / self.weight

    @property
    def spread_CC(self) -> Tensor:
        """Weighted mean of h h^T, or the weighted covariance of h if the module has a bias; float64."""
        assert self.gram_CC is not None
        mean_CC = self.gram_CC.to(self.sum_C.device, torch.float64) / self.weight
        deviation_C = self.sum_C / self.weight
        return mean_CC - deviation_C.outer(deviation_C) if self.centred else mean_CC

    def to(self, device: torch.device) -> "Moments":
        """The moments with every tensor on `device`."""
        return replace(
            self,
            origin_C=self.origin_C.to(device),
            sum_C=self.sum_C.to(device),
            gram_CC=None if self.gram_CC is None else self.gram_CC.to(device),
            effect_OO=None if self.effect_OO is None else self.effect_OO.to(device),
            weights_N=[weight_N.to(device) for weight_N in self.weights_N],
        )

    def about(self, origin_C: Tensor) -> "Moments":
        """The same moments as sums of deviations from another origin, added up in float64.

        With d = o - o', the sum of w (h - o')(h - o')^T is G + s d^T + d s^T + W d d^T.
        """
        if torch.equal(origin_C, self.origin_C):
            return self
        shift_C = self.origin_C.double() - origin_C.double()
        gram_CC = self.gram_CC
        if gram_CC is not None:
            cross_CC = self.sum_C.outer(shift_C)
            moved_CC = gram_CC.double() + cross_CC + cross_CC.T + self.weight * shift_C.outer(shift_C)
            gram_CC = moved_CC.float()
        return replace(self, origin_C=origin_C, sum_C=self.sum_C + self.weight * shift_C, gram_CC=gram_CC)

    def times(self, tokens: float, effects: float) -> "Moments":
        """The moments with the weight of every token and the products of gradients times these factors."""
        return replace(
            self,
            weight=tokens * self.weight,
            sum_C=tokens * self.sum_C,
            gram_CC=None if self.gram_CC is None else tokens * self.gram_CC,
            effect_OO=None if self.effect_OO is None else effects * self.effect_OO,
            weights_N=[tokens * weight_N for weight_N in self.weights_N],
        )

    def add(self, activation_NC: Tensor, weight_N: Tensor | None = None) -> None:
        """Add the tokens of a batch, each with weight 1 unless weights are given."""
        activation_NC = activation_NC.float()
        if self.centred and not self.weight:
            self.origin_C = activation_NC.mean(0)
        activation_NC = activation_NC - self.origin_C
        self.num_tokens += activation_NC.shape[0]
        weighted_NC = activation_NC
        if weight_N is None:
            self.weight += activation_NC.shape[0]
        else:
            self.weight += float(weight_N.sum())
            self.weights_N.append(weight_N)
            weighted_NC = weighted_NC * weight_N.unsqueeze(1)
        self.sum_C += weighted_NC.sum(0, dtype=torch.float64)
        if self.gram_CC is not None:
            add_gram(self.gram_CC, activation_NC, weighted_NC)

    def add_effects(self, gradient_NO: Tensor) -> None:
        """Add the output gradients of the tokens of the last `add`."""
        if self.effect_OO is not None:
            add_gram(self.effect_OO, gradient_NO.float())


def added(parts: Sequence[Moments]) -> Moments:
    """The moments of one module over the tokens of all parts, about the origin of the first; weights part by part."""
    first = parts[0]
    moved = [part.about(first.origin_C) for part in parts]
    grams = [part.gram_CC for part in moved if part.gram_CC is not None]
    effects = [part.effect_OO for part in moved if part.effect_OO is not None]
    return Moments(
        centred=first.centred,
        num_tokens=sum(part.num_tokens for part in moved),
        weight=sum(part.weight for part in moved),
        origin_C=first.origin_C,
        sum_C=torch.stack([part.sum_C for part in moved]).sum(0),
        gram_CC=_sum(grams),
        effect_OO=_sum(effects),
        weights_N=[weight_N for part in moved for weight_N in part.weights_N],
    )


def _sum(matrices: Sequence[Tensor]) -> Tensor | None:
    """The sum of matrices, one at a time in place of the first; None of none."""
    if not matrices:
        return None
    total = matrices[0].clone()
    for matrix in matrices[1:]:
        total += matrix
    return total


def portions(model: nn.Module, groups: Sequence[Group], *, effects: bool = False) -> list[list[Group]]:
    """The groups in portions, so that the matrices of each portion fit into the memory that is free on the device.

    More portions take more passes over the rows, and give the same moments.
    """
    limit, used, parts = budget(next(model.parameters()).device), 0, list[list[Group]]()
    for group in groups:
        size = matrix_bytes(model, group, effects=effects)
        if not parts or used + size > limit:
            parts.append([])
            used = 0
        parts[-1].append(group)
        used += size
    return parts


def matrix_bytes(model: nn.Module, group: Group, *, effects: bool = False) -> int:
    """Bytes of the Gram matrix of a group's consumer, and of that of its output gradients, in float32."""
    num_in, num_out = _sizes(model, group)
    return 4 * (num_in**2 + (num_out**2 if effects else 0))


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
    """Path of a module -> its moments over all batches, for the modules whose inputs are the units of `groups`.

    A batch takes one forward pass, and one backward pass if an `objective` weights the tokens; with None the weight of
    each is 1. Call it within `attribution.prepared`. `on_batches` is called with the number of batches that are done.
    """
    consumers = {group.module: group for group in groups}
    found = {path: _empty(model, group, grams, effects) for path, group in consumers.items()}
    for done, batch in enumerate(batches, 1):
        with ExitStack() as hooks, torch.set_grad_enabled(objective is not None):
            for path, group in consumers.items():
                record = _weighing if objective else _counting
                hooks.enter_context(record(model, group, batch, found[path]))
            if objective:
                torch.autograd.backward(objective_values(model, batch, objective).sum())
            else:
                token_scores(model, batch)
        on_batches(done)
    return found


def _empty(model: nn.Module, group: Group, grams: bool, effects: bool) -> Moments:
    weight, (num_in, num_out) = model.get_parameter(f"{group.module}.weight"), _sizes(model, group)
    return Moments(
        centred=isinstance(model.get_submodule(group.module).bias, Tensor),
        num_tokens=0,
        weight=0.0,
        origin_C=weight.new_zeros(num_in, dtype=torch.float32),
        sum_C=weight.new_zeros(num_in, dtype=torch.float64),
        gram_CC=weight.new_zeros((num_in, num_in), dtype=torch.float32) if grams else None,
        effect_OO=weight.new_zeros((num_out, num_out), dtype=torch.float32) if effects else None,
    )


def _sizes(model: nn.Module, group: Group) -> tuple[int, int]:
    """(inputs, outputs) of the linear module whose inputs are the units of the group."""
    shape, inputs = model.get_parameter(f"{group.module}.weight").shape, group.slices[0].dim
    return shape[inputs], shape[1 - inputs]


@contextmanager
def _counting(model: nn.Module, group: Group, batch: Batch, moments: Moments) -> Iterator[None]:
    """Add the inputs of the module with weight 1 for every token."""
    mask_BT = batch.masks[group.site.stack]

    def see(activation: Tensor, before: Tensor | None) -> None:
        moments.add(activation.reshape(*mask_BT.shape, -1)[mask_BT])

    with watch(model, group, see):
        yield


@contextmanager
def _weighing(model: nn.Module, group: Group, batch: Batch, moments: Moments) -> Iterator[None]:
    """Add the inputs of the module with the weights that follow from the gradients of its output."""
    mask_BT = batch.masks[group.site.stack]
    seen: list[Tensor] = []

    def see(activation: Tensor, before: Tensor | None) -> Tensor | None:
        if not torch.is_grad_enabled():  # a layer that is computed again in the backward pass
            return None
        seen[:] = [activation.detach().reshape(*mask_BT.shape, -1)[mask_BT]]
        # No tensor before the first module requires a gradient, so that the backward pass ends at its input.
        return activation if activation.requires_grad else activation.detach().requires_grad_()

    def weigh(gradient: Tensor) -> None:
        gradient_BTO = gradient.reshape(*mask_BT.shape, -1)
        moments.add(seen.pop(), batch.weight * token_weights(gradient_BTO, mask_BT)[mask_BT])
        moments.add_effects(gradient_BTO[mask_BT])

    def follow(module: nn.Module, args: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(weigh)

    handle = model.get_submodule(group.module).register_forward_hook(follow)
    try:
        with watch(model, group, see):
            yield
    finally:
        handle.remove()


def token_weights(gradient_BTO: Tensor, mask_BT: Tensor) -> Tensor:
    """1/2 + 1/2 * |g|^2 / (mean of |g|^2 over the row's tokens); 1/2 in a row with zero gradient (B, T)."""
    square_BT = gradient_BTO.float().square().sum(-1).masked_fill(~mask_BT, 0)
    mean_B1 = square_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)
    return 1 - BY_GRADIENT + BY_GRADIENT * square_BT / mean_B1.clamp_min(torch.finfo(torch.float32).tiny)
