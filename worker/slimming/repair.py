"""What the kept units can do for those that go, without training.

A module that reads units computes y = W h + b. Its kept columns K are changed so that y stays as near as it can to what
it was on the calibration rows. Everything happens in the whole model, before the cut: the columns that will go keep
their values, and `cut` leaves the repaired ones.

Shape suffixes: C channels of a reading module's input, K kept ones, O outputs, N tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.attribution import prepared
from worker.slimming.groups import Group, Site, layers_of
from worker.slimming.objectives import Batch, token_log_probabilities
from worker.slimming.ports import watch
from worker.slimming.surgery import groups_of, masked, stays

RIDGE = 0.01  # of the mean of the Gram matrix's diagonal
GRAM_BYTES = 4 * 2**30  # of Gram matrices that are held at once; more cost another pass over the data


class RepairUnavailable(ValueError):
    """The family's stock config has no place for what the repair would add."""


@dataclass(frozen=True)
class Reader:
    """A module that reads units, and which channels of its input stay."""

    path: str
    transposed: bool
    groups: tuple[Group, ...]
    stays_C: Tensor

    @property
    def stack(self) -> str:
        """The stack whose mask tells its tokens from padding."""
        return self.groups[0].site.stack


@dataclass
class Moments:
    """Streaming sums over tokens of a reader's input, float64 for the mean and float32 for the Gram matrix."""

    num_tokens: int
    sum_C: Tensor
    gram_CC: Tensor | None  # sum of h h^T; a bias needs none

    def add(self, activation_NC: Tensor) -> None:
        """Add one batch's tokens."""
        self.num_tokens += activation_NC.shape[0]
        self.sum_C += activation_NC.sum(0, dtype=torch.float64)
        if self.gram_CC is not None:
            self.gram_CC.addmm_(activation_NC.float().T, activation_NC.float())


def repair(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    batches: Sequence[Batch],
    method: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Repair the whole `model` in place for a cut to `kept`, by the named method of REPAIRS.

    Groups that no module reads linearly (query dimensions, layers) are left alone. `on_progress` hears how many of how
    many batches are done, all passes together. Raises RepairUnavailable.
    """
    with prepared(model), torch.no_grad():
        REPAIRS[method](model, architecture, kept, batches, on_progress)


Progress = Callable[[int, int], None]
Repair = Callable[[nn.Module, Architecture, Mapping[Site, Tensor], Sequence[Batch], Progress], None]


def bias(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    batches: Sequence[Batch],
    on_progress: Progress,
) -> None:
    """b + W_R E[h_R] with R what goes: its mean contribution becomes part of the bias (FLAP, arXiv 2312.11983)."""
    readers = _readers(model, architecture, kept)
    _make_room(model, architecture, kept)
    holding = [reader for reader in readers if model.get_submodule(reader.path).bias is not None]
    if not holding:
        raise RepairUnavailable("the stock config of this family gives these modules no bias")
    moments = _moments(model, holding, batches, lambda done: on_progress(done, len(batches)), grams=False)
    for reader in holding:
        mean_C = moments[reader.path].sum_C / moments[reader.path].num_tokens
        gone_C = ~reader.stays_C.to(mean_C.device)
        weight_OC = _weight_OC(model, reader).double()
        model.get_parameter(f"{reader.path}.bias").add_(weight_OC[:, gone_C] @ mean_C[gone_C])


def least_squares(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    batches: Sequence[Batch],
    on_progress: Progress,
) -> None:
    """argmin over W' of E|W h - W' h_K|^2 + r |W' - W_K|^2, for every reader at once, with h of the dense model."""
    portions = _portions(_readers(model, architecture, kept))
    fits = []
    for number, portion in enumerate(portions):
        moments = _moments(model, portion, batches, _pass(number, len(portions), len(batches), on_progress))
        fits += [(reader, _fit(model, reader, moments[reader.path])) for reader in portion]
    for reader, fit in fits:
        _write(model, reader, *fit)


def refit(
    model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], moments: Mapping[str, Moments]
) -> None:
    """`least_squares` for moments that are known: path of a reader -> those of its input in the dense model.

    They hold for every choice of units, so that one pass over the data serves as many cuts as are to be compared.
    """
    with torch.no_grad():
        for reader in _readers(model, architecture, kept):
            _write(model, reader, *_fit(model, reader, moments[reader.path]))


def layerwise(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    batches: Sequence[Batch],
    on_progress: Progress,
) -> None:
    """As `least_squares`, one reader after the other, with h of the model that is slim and repaired up to there.

    Each reader costs a forward pass as far as itself.
    """
    readers = _readers(model, architecture, kept)
    for number, reader in enumerate(readers):
        still_whole = {group.site for other in readers[number:] for group in other.groups}
        with masked(model, architecture, {site: kept[site] for site in kept if site not in still_whole}):
            report = _pass(number, len(readers), len(batches), on_progress)
            moments = _moments(model, [reader], batches, report, stop_after=reader.path)
        _write(model, reader, *_fit(model, reader, moments[reader.path]))


def _pass(number: int, passes: int, num_batches: int, on_progress: Progress) -> Callable[[int], None]:
    return lambda done: on_progress(number * num_batches + done, passes * num_batches)


REPAIRS: dict[str, Repair] = {"bias": bias, "least_squares": least_squares, "least_squares_layerwise": layerwise}


# --- readers -------------------------------------------------------------------------------------------------------


def _readers(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> list[Reader]:
    """The modules that read units of `kept`, in the order of the forward pass."""
    groups: dict[str, list[Group]] = {}
    for group in groups_of(model, architecture, kept):
        if group.port == "input":
            groups.setdefault(group.watched, []).append(group)
    order = {name: rank for rank, (name, _) in enumerate(model.named_modules())}
    return [
        Reader(path, members[0].slabs[0].dim == 0, tuple(members), _staying_channels(members, kept))
        for path, members in sorted(groups.items(), key=lambda item: order[item[0]])
    ]


def _staying_channels(groups: Sequence[Group], kept: Mapping[Site, Tensor]) -> Tensor:
    masks = [stays(group, kept[group.site]).repeat_interleave(group.size) for group in groups]
    return torch.stack(masks).all(0)


def _weight_OC(model: nn.Module, reader: Reader) -> Tensor:
    """A view, so that writing to it writes to the model."""
    weight = model.get_parameter(f"{reader.path}.weight")
    return weight.T if reader.transposed else weight


def _make_room(model: Any, architecture: Architecture, kept: Mapping[Site, Tensor]) -> None:
    """Give the feed-forward modules the zero biases that a stock config of the family can ask for."""
    for stack in architecture.stacks:
        row = stack.feed_forward
        if not row.bias or getattr(model.config, row.bias):
            continue
        if any(site.unit == "heads" for site in kept):
            raise RepairUnavailable("a Llama with biases cannot be written with any number of heads")
        for layer in layers_of(model, stack):
            for path in (*row.expand, row.contract):
                module: Any = layer.get_submodule(path)
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), requires_grad=False)
        setattr(model.config, row.bias, True)


# --- moments -------------------------------------------------------------------------------------------------------


def _portions(readers: Sequence[Reader]) -> list[list[Reader]]:
    """The readers in portions whose Gram matrices fit into GRAM_BYTES together."""
    portions: list[list[Reader]] = [[]]
    used = 0
    for reader in readers:
        size = 4 * reader.stays_C.numel() ** 2
        if portions[-1] and used + size > GRAM_BYTES:
            portions.append([])
            used = 0
        portions[-1].append(reader)
        used += size
    return portions


class _Reached(Exception):
    """The last reader of interest has been seen: nothing behind it is needed."""


def _moments(
    model: nn.Module,
    readers: Sequence[Reader],
    batches: Sequence[Batch],
    on_batches: Callable[[int], None],
    *,
    grams: bool = True,
    stop_after: str = "",
) -> dict[str, Moments]:
    """The moments of every reader's input over the tokens of all batches."""
    found = {reader.path: _empty(model, reader, grams) for reader in readers}
    for done, batch in enumerate(batches, 1):
        with ExitStack() as hooks:
            for reader in readers:
                hooks.enter_context(_adding(model, reader, batch, found[reader.path], stop=reader.path == stop_after))
            with suppress(_Reached):
                token_log_probabilities(model, batch)  # computes few of the logits, where a plain call computes all
        on_batches(done)
    return found


def _empty(model: nn.Module, reader: Reader, grams: bool) -> Moments:
    weight_OC = _weight_OC(model, reader)
    size = weight_OC.shape[1]
    gram_CC = weight_OC.new_zeros((size, size), dtype=torch.float32) if grams else None
    return Moments(0, weight_OC.new_zeros(size, dtype=torch.float64), gram_CC)


@contextmanager
def _adding(model: nn.Module, reader: Reader, batch: Batch, moments: Moments, *, stop: bool) -> Iterator[None]:
    mask_N = batch.masks[reader.stack].flatten()

    def visit(activation: Tensor, _: Tensor | None) -> None:
        moments.add(activation.reshape(-1, activation.shape[-1])[mask_N])
        if stop:
            raise _Reached

    with watch(model, reader.groups[0], visit):
        yield


# --- least squares -------------------------------------------------------------------------------------------------


def _fit(model: nn.Module, reader: Reader, moments: Moments) -> tuple[Tensor, Tensor | None]:
    """(W' of the kept channels (O, K), the bias to go with it), solved in float64.

    Setting the derivative of tr((W - W'S) G (W - W'S)^T) + r |W' - W_K|^2 to zero, with S the rows K of the identity,
    gives W' = W (G + r I)_CK ((G + r I)_KK)^-1: what the rows do not settle stays as it was, not near zero. Where there
    is a bias, G is the covariance and the bias takes up the means.
    """
    assert moments.gram_CC is not None
    gram_CC, mean_C = moments.gram_CC.double() / moments.num_tokens, moments.sum_C / moments.num_tokens
    old_bias = model.get_submodule(reader.path).bias
    if isinstance(old_bias, Tensor):
        gram_CC = gram_CC - mean_C.outer(mean_C)
    kept_K = reader.stays_C.nonzero().flatten().to(gram_CC.device)
    weight_OC = _weight_OC(model, reader).double()
    gram_CC.diagonal().add_(RIDGE * float(gram_CC.diagonal()[kept_K].mean()))
    factor = torch.linalg.cholesky(gram_CC[kept_K][:, kept_K])
    fitted_OK = torch.cholesky_solve(gram_CC[kept_K] @ weight_OC.T, factor).T
    stored_OK = fitted_OK.to(model.get_parameter(f"{reader.path}.weight").dtype)
    if not isinstance(old_bias, Tensor):
        return stored_OK, None
    return stored_OK, old_bias.double() + weight_OC @ mean_C - fitted_OK @ mean_C[kept_K]


def _write(model: nn.Module, reader: Reader, fitted_OK: Tensor, new_bias: Tensor | None) -> None:
    weight_OC = _weight_OC(model, reader)
    weight_OC[:, reader.stays_C.to(weight_OC.device)] = fitted_OK
    if new_bias is not None:
        model.get_parameter(f"{reader.path}.bias").copy_(new_bias)
