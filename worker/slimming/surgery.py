"""Cuts units out of a model, or silences them to show what the cut will do. Both are exact.

Shape suffixes: K kept units, C channels of a module's input or output.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.groups import Group, Site, locate


def cut(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> None:
    """Slice the model in place to the `kept` units and set its config, so that a stock class loads what is saved.

    Sites that `kept` does not name stay whole. Widths that a config holds once must be equal: raises ValueError.
    """
    groups = _groups(model, architecture, kept)
    widths = {(group.width, kept[group.site].numel()) for group in groups}
    if len(widths) != len({field for field, _ in widths}):
        raise ValueError(f"a config field holds one width, these differ: {sorted(widths)}")
    for group in groups:
        _slice(model, group, kept[group.site])
    for field, width in widths:
        setattr(model.config, field, width)


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> Iterator[None]:
    """Within the context the units that are not in `kept` contribute nothing."""
    with ExitStack() as hooks:
        for group in _groups(model, architecture, kept):
            contract = model.get_submodule(group.contract)
            hooks.callback(contract.register_forward_pre_hook(_silencer(group, kept[group.site])).remove)
        yield


def _groups(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> list[Group]:
    units = sorted({site.unit for site in kept})
    return [group for group in locate(model, architecture, units) if group.site in kept]


def _silencer(group: Group, kept_K: Tensor) -> Callable[[nn.Module, Any], Any]:
    stays_C = torch.zeros(group.count, dtype=torch.bool).index_fill_(0, kept_K, True).repeat_interleave(group.size)
    return lambda _, args: (args[0].masked_fill(~stays_C.to(args[0].device), 0), *args[1:])


def _slice(model: nn.Module, group: Group, kept_K: Tensor) -> None:
    kept_C = _channels(kept_K, group.size)
    contract = model.get_submodule(group.contract)
    _keep_inputs(contract, kept_C, group.transposed)
    # gate and up of a fused matrix lie one after the other
    rows_C = torch.cat([kept_C, kept_C + group.count * group.size]) if group.fused else kept_C
    for path in group.expand:
        _keep_outputs(model.get_submodule(path), rows_C, group.transposed)
    block = model.get_submodule(group.contract.rpartition(".")[0])
    if hasattr(block, group.width):
        setattr(block, group.width, kept_K.numel())


def _channels(kept_K: Tensor, size: int) -> Tensor:
    return (kept_K.unsqueeze(1) * size + torch.arange(size)).flatten()


def _keep_inputs(module: nn.Module, kept_C: Tensor, transposed: bool) -> None:
    _keep(module, "weight", 0 if transposed else 1, kept_C)
    setattr(module, "nx" if transposed else "in_features", kept_C.numel())


def _keep_outputs(module: nn.Module, kept_C: Tensor, transposed: bool) -> None:
    _keep(module, "weight", 1 if transposed else 0, kept_C)
    if module.bias is not None:
        _keep(module, "bias", 0, kept_C)
    setattr(module, "nf" if transposed else "out_features", kept_C.numel())


def _keep(module: nn.Module, name: str, dimension: int, kept_C: Tensor) -> None:
    old = module.get_parameter(name)
    sliced = old.detach().index_select(dimension, kept_C.to(old.device)).contiguous()
    setattr(module, name, nn.Parameter(sliced, requires_grad=old.requires_grad))
