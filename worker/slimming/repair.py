"""What the kept units can do for those that go, without training.

A module that reads units computes y = W h + b. Its kept columns K are changed so that y stays as near as it can to what
it was on the calibration rows. Everything happens in the whole model, before the cut: the columns that will go keep
their values, and `cut` leaves the repaired ones.

Shape suffixes: C channels of a reading module's input, K kept ones, O outputs, N tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.attribution import prepared
from worker.slimming.groups import Group, Site, layers_of
from worker.slimming.moments import RIDGE, Moments, collect, portions
from worker.slimming.objectives import Batch
from worker.slimming.surgery import groups_of, masked, stays


class RepairUnavailable(ValueError):
    """The family's stock config has no place for what the repair would add."""


class Rows(NamedTuple):
    """What a repair is fitted on, and the objective that tells which tokens matter (a key of OBJECTIVES)."""

    batches: Sequence[Batch]
    objective: str


@dataclass(frozen=True)
class Reader:
    """A module that reads units, and which channels of its input stay."""

    path: str
    transposed: bool
    groups: tuple[Group, ...]
    stays_C: Tensor


def repair(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    method: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Repair the whole `model` in place for a cut to `kept`, by the named method of REPAIRS.

    Groups that no module reads linearly (query dimensions, layers) are left alone. `on_progress` hears how many of how
    many batches are done, all passes together. Raises RepairUnavailable.
    """
    with prepared(model), torch.no_grad():
        REPAIRS[method](model, architecture, kept, rows, on_progress)


Progress = Callable[[int, int], None]
Repair = Callable[[nn.Module, Architecture, Mapping[Site, Tensor], Rows, Progress], None]


def bias(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Progress,
) -> None:
    """b + W_R E[h_R] with R what goes: its mean contribution becomes part of the bias (FLAP, arXiv 2312.11983)."""
    make_room(model, architecture, kept)
    readers = [reader for reader in _readers(model, architecture, kept) if _bias_of(model, reader) is not None]
    count = len(rows.batches)
    groups = [reader.groups[0] for reader in readers]
    moments = collect(model, groups, rows.batches, None, lambda done: on_progress(done, count), grams=False)
    fold(model, architecture, kept, moments)


def fold(
    model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], moments: Mapping[str, Moments]
) -> None:
    """`bias` for moments that are known: path of a reader -> those of its input in the dense model."""
    for reader in _readers(model, architecture, kept):
        old_bias = _bias_of(model, reader)
        if old_bias is None:
            continue
        mean_C = moments[reader.path].mean_C
        gone_C = ~reader.stays_C.to(mean_C.device)
        weight_OC = _weight_OC(model, reader).double()
        _replace(model, f"{reader.path}.bias", old_bias.double() + weight_OC[:, gone_C] @ mean_C[gone_C])


def least_squares(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Progress,
) -> None:
    """argmin over W' of E|W h - W' h_K|^2 + r |W' - W_K|^2, for every reader at once, with h of the dense model.

    The tokens of the mean are weighed as in `moments`: those count most that the objective depends on.
    """
    readers = {reader.path: reader for reader in _readers(model, architecture, kept)}
    parts = portions([reader.groups[0] for reader in readers.values()])
    fits = []
    for number, part in enumerate(parts):
        report = _pass(number, len(parts), len(rows.batches), on_progress)
        found = collect(model, part, rows.batches, rows.objective, report)
        fits += [(readers[path], _fit(model, readers[path], moments)) for path, moments in found.items()]
    for reader, fit in fits:
        _write(model, reader, *fit)


def refit(
    model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], moments: Mapping[str, Moments]
) -> None:
    """`least_squares` for moments that are known: path of a reader -> those of its input in the dense model."""
    with torch.no_grad():
        for reader in _readers(model, architecture, kept):
            _write(model, reader, *_fit(model, reader, moments[reader.path]))


def moments_of(
    model: nn.Module,
    architecture: Architecture,
    groups: Sequence[Group],
    rows: Rows,
    method: str,
    on_batches: Callable[[int], None] = lambda done: None,
) -> dict[str, Moments] | None:
    """What REFITS[method] needs of every module that reads units of `groups`, from one pass over the batches.

    It holds for every choice of units, so that one pass serves as many cuts as are to be compared. None where there
    is no such method, or where the Gram matrices would not fit: then `repair` has to be called for each cut.
    """
    read, grams = [group for group in groups if group.port == "input"], method == "least_squares"
    if method not in REFITS or (grams and len(portions(read)) > 1):
        return None
    with prepared(model):
        return collect(model, read, rows.batches, rows.objective if grams else None, on_batches, grams=grams)


def layerwise(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Progress,
) -> None:
    """As `least_squares`, one reader after the other, with h of the model that is slim and repaired up to there.

    Each reader costs a forward pass as far as itself. A pass that stops there has no gradients: every token weighs 1.
    """
    readers = _readers(model, architecture, kept)
    for number, reader in enumerate(readers):
        still_whole = {group.site for other in readers[number:] for group in other.groups}
        with masked(model, architecture, {site: kept[site] for site in kept if site not in still_whole}):
            report = _pass(number, len(readers), len(rows.batches), on_progress)
            moments = collect(model, reader.groups[:1], rows.batches, None, report, stop_after=reader.path)
        _write(model, reader, *_fit(model, reader, moments[reader.path]))


def _pass(number: int, passes: int, num_batches: int, on_progress: Progress) -> Callable[[int], None]:
    return lambda done: on_progress(number * num_batches + done, passes * num_batches)


REPAIRS: dict[str, Repair] = {"bias": bias, "least_squares": least_squares, "least_squares_layerwise": layerwise}
REFITS = {"bias": fold, "least_squares": refit}


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
    """As (outputs, inputs), however it is stored."""
    weight = model.get_parameter(f"{reader.path}.weight")
    return weight.T if reader.transposed else weight


def _bias_of(model: nn.Module, reader: Reader) -> Tensor | None:
    found = model.get_submodule(reader.path).bias
    return found if isinstance(found, Tensor) else None


def _replace(model: nn.Module, name: str, value: Tensor) -> None:
    """A new parameter in the old one's dtype: a twin of the model may share the old one."""
    old = model.get_parameter(name)
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad))


def make_room(model: Any, architecture: Architecture, kept: Mapping[Site, Tensor]) -> None:
    """Give the feed-forward modules the zero biases that a stock config of the family can ask for.

    Raises RepairUnavailable where none of the modules that read units of `kept` can have one.
    """
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
    if all(_bias_of(model, reader) is None for reader in _readers(model, architecture, kept)):
        raise RepairUnavailable("the stock config of this family gives these modules no bias")


# --- least squares -------------------------------------------------------------------------------------------------


def _fit(model: nn.Module, reader: Reader, moments: Moments) -> tuple[Tensor, Tensor | None]:
    """(W' of the kept channels (O, K), the bias to go with it), solved in float64.

    Setting the derivative of tr((W - W'S) G (W - W'S)^T) + r |W' - W_K|^2 to zero, with S the rows K of the identity,
    gives W' = W (G + r I)_CK ((G + r I)_KK)^-1: what the rows do not settle stays as it was, not near zero. Where there
    is a bias, G is the covariance and the bias takes up the means.
    """
    gram_CC, mean_C, old_bias = moments.spread_CC, moments.mean_C, _bias_of(model, reader)
    kept_K = reader.stays_C.nonzero().flatten().to(gram_CC.device)
    weight_OC = _weight_OC(model, reader).double()
    gram_CC.diagonal().add_(RIDGE * float(gram_CC.diagonal()[kept_K].mean()))
    factor = torch.linalg.cholesky(gram_CC[kept_K][:, kept_K])
    fitted_OK = torch.cholesky_solve(gram_CC[kept_K] @ weight_OC.T, factor).T
    stored_OK = fitted_OK.to(model.get_parameter(f"{reader.path}.weight").dtype)
    if old_bias is None:
        return stored_OK, None
    return stored_OK, old_bias.double() + weight_OC @ mean_C - fitted_OK @ mean_C[kept_K]


def _write(model: nn.Module, reader: Reader, fitted_OK: Tensor, new_bias: Tensor | None) -> None:
    weight_OC = _weight_OC(model, reader).detach().clone()
    weight_OC[:, reader.stays_C.to(weight_OC.device)] = fitted_OK
    _replace(model, f"{reader.path}.weight", (weight_OC.T if reader.transposed else weight_OC).contiguous())
    if new_bias is not None:
        _replace(model, f"{reader.path}.bias", new_bias)
