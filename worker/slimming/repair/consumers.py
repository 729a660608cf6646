"""Consumers: the linear modules y = W h + b whose input h consists of units that a cut may remove.

Weights are replaced in the whole model, before the cut: the columns of units that go keep their values, and the cut
leaves the columns that stay.

Shape suffixes: C input channels of a consumer, K input channels that stay, O output channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.streaming.mapped import beside
from worker.slimming.surgery.slicing import groups_of, stays
from worker.slimming.units.groups import Group, Kept


@dataclass(frozen=True)
class Consumer:
    """A linear module that takes units as its input, and the input channels that stay."""

    path: str  # in the whole model
    transposed: bool  # the weight is stored as (C, O)
    groups: tuple[Group, ...]  # the groups of units in its input
    stays_C: Tensor  # bool


def consumers_of(model: nn.Module, architecture: Architecture, kept: Kept) -> list[Consumer]:
    """The consumers of the groups in `kept`, in the order of the forward pass.

    Query dimensions and layers have no consumer: no linear module takes them as its input.
    """
    groups: dict[str, list[Group]] = {}
    for group in groups_of(model, architecture, kept):
        if group.hook_point == "input":
            groups.setdefault(group.module, []).append(group)
    order = {name: rank for rank, (name, _) in enumerate(model.named_modules())}
    return [
        Consumer(path, members[0].slices[0].dim == 0, tuple(members), _staying_channels(members, kept))
        for path, members in sorted(groups.items(), key=lambda item: order[item[0]])
    ]


def _staying_channels(groups: Sequence[Group], kept: Kept) -> Tensor:
    """The input channels that every group of the consumer keeps, bool (C)."""
    masks = [stays(group, kept[group.site]).repeat_interleave(group.size) for group in groups]
    return torch.stack(masks).all(0)


def weight_of(model: nn.Module, consumer: Consumer) -> Tensor:
    """The weight W as (O, C), whichever way it is stored."""
    weight = model.get_parameter(f"{consumer.path}.weight")
    return weight.T if consumer.transposed else weight


def bias_of(model: nn.Module, consumer: Consumer) -> Tensor | None:
    """The bias b (O), or None where the module has none."""
    found = model.get_submodule(consumer.path).bias
    return found if isinstance(found, Tensor) else None


def replace_kept_columns(model: nn.Module, consumer: Consumer, fitted_OK: Tensor, bias_O: Tensor | None) -> None:
    """Replace the columns that stay, and the bias where one is given, in the whole model."""
    weight_OC = weight_of(model, consumer).detach().clone()
    weight_OC[:, consumer.stays_C.to(weight_OC.device)] = fitted_OK.to(weight_OC.dtype)
    replace_weight(model.get_submodule(consumer.path), consumer, weight_OC, bias_O)


def replace_weight(module: nn.Module, consumer: Consumer, weight_OC: Tensor, bias_O: Tensor | None) -> None:
    """Replace the weight, and the bias where one is given, of the consumer's module in a whole or a cut model."""
    _replace(module, "weight", (weight_OC.T if consumer.transposed else weight_OC).contiguous())
    if bias_O is not None:
        _replace(module, "bias", bias_O)


def replace_bias(model: nn.Module, consumer: Consumer, bias_O: Tensor) -> None:
    """Replace the bias in the whole model."""
    _replace(model.get_submodule(consumer.path), "bias", bias_O)


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Assign a new parameter of the old one's dtype. It is not written in place: copies may share the old tensor."""
    old = module.get_parameter(name)
    setattr(module, name, nn.Parameter(beside(old, value.to(old.dtype)), requires_grad=old.requires_grad))
