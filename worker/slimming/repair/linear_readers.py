"""The modules that read units, y = W h + b, and what a repair writes into them.

Everything happens in the whole model, before the cut: the columns that will go keep their values, and `cut` leaves the
repaired ones.

Shape suffixes: C channels of a reading module's input, K kept ones, O outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.surgery import groups_of, stays
from worker.slimming.units import Group, Site


@dataclass(frozen=True)
class Reader:
    """A module that reads units, and which channels of its input stay."""

    path: str
    transposed: bool
    groups: tuple[Group, ...]
    stays_C: Tensor


def readers_of(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> list[Reader]:
    """The modules that read units of `kept`, in the order of the forward pass.

    Groups that no module reads linearly (query dimensions, layers) have none.
    """
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


def weight_of(model: nn.Module, reader: Reader) -> Tensor:
    """W as (O, C), however it is stored."""
    weight = model.get_parameter(f"{reader.path}.weight")
    return weight.T if reader.transposed else weight


def bias_of(model: nn.Module, reader: Reader) -> Tensor | None:
    """b (O), if there is one."""
    found = model.get_submodule(reader.path).bias
    return found if isinstance(found, Tensor) else None


def write_kept(model: nn.Module, reader: Reader, fitted_OK: Tensor, new_bias_O: Tensor | None) -> None:
    """Put new columns in the place of those that stay, and a new bias where one is given."""
    weight_OC = weight_of(model, reader).detach().clone()
    weight_OC[:, reader.stays_C.to(weight_OC.device)] = fitted_OK.to(weight_OC.dtype)
    write(model.get_submodule(reader.path), reader, weight_OC, new_bias_O)


def write(module: nn.Module, reader: Reader, weight_OC: Tensor, new_bias_O: Tensor | None) -> None:
    """Give the reader's module, of the whole or of a cut model, a new weight, and a new bias where one is given."""
    _replace(module, "weight", (weight_OC.T if reader.transposed else weight_OC).contiguous())
    if new_bias_O is not None:
        _replace(module, "bias", new_bias_O)


def write_bias(model: nn.Module, reader: Reader, new_bias_O: Tensor) -> None:
    """Put a new bias in the place of the old one."""
    _replace(model.get_submodule(reader.path), "bias", new_bias_O)


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """A new parameter in the old one's dtype: a twin of the model may share the old one."""
    old = module.get_parameter(name)
    setattr(module, name, nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad))
