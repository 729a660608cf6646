"""Cuts units out of a model, or silences them to show what the cut will do. Both are exact.

Shape suffixes: U units of a group, K kept units, I indices along one dimension of a parameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.hooks import Visitor, watch
from worker.slimming.units import Group, Site, head_size, layers_of, locate

ModelT = TypeVar("ModelT", bound=nn.Module)

# Sizes that modules remember, and the config field that each is a copy of.
REMEMBERED = {
    "intermediate_size": "intermediate_size",
    "num_key_value_heads": "num_key_value_heads",
    "n_heads": "num_heads",
    "key_value_proj_dim": "d_kv",
}


def cut(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], layout: str = "uniform") -> None:
    """Slice the model in place to the `kept` units and set its config, so that a stock class loads what is saved.

    Sites that `kept` does not name stay whole. With the layout "uniform", widths that a config holds once must be
    equal: raises ValueError. With "per_layer" only those of one level must; the config of every layer's modules then
    holds its own widths, and the model's config of the other fields what it was.
    """
    groups = groups_of(model, architecture, kept)
    sizes = {group.site: field_values(group, kept[group.site]) for group in groups if group.kind != "layers"}
    everywhere = {group.site for group in groups if layout == "uniform" or group.level}
    shared = _agreed({site: fields for site, fields in sizes.items() if site in everywhere})
    _name_head_size(model, architecture, groups)
    _slice(model, [group for group in groups if group.kind != "layers"], kept)
    for config in _configs(model):
        _set(config, shared)
    for stack in architecture.stacks:
        _settle_layers(model, stack, sizes, own_configs=layout != "uniform")
        _drop_layers(model, stack, kept)


def twin(model: ModelT) -> ModelT:
    """A copy with modules and configs of its own over the same tensors: to cut it leaves the model whole."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return deepcopy(model, shared)


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> Iterator[None]:
    """Within the context the units that are not in `kept` contribute nothing."""
    with ExitStack() as hooks:
        for group in groups_of(model, architecture, kept):
            hooks.enter_context(watch(model, group, _silencer(group, kept[group.site])))
        yield


def groups_of(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor]) -> list[Group]:
    """The groups that `kept` names."""
    stems = ("ffn", "heads", "head_dims", "layers")
    kinds = [kind for kind in stems if any(_is_of(site, kind) for site in kept)]
    return [group for group in locate(model, architecture, kinds) if group.site in kept]


def _is_of(site: Site, kind: str) -> bool:
    return site.unit.endswith("_dims" if kind == "head_dims" else kind)


def field_values(group: Group, kept_K: Tensor) -> dict[str, int]:
    """The config fields of a group that keeps `kept_K`."""
    return {field: kept_K.numel() // group.rows * share for field, share in group.fields}


def _agreed(sizes: Mapping[Site, Mapping[str, int]]) -> dict[str, int]:
    pairs = {pair for fields in sizes.values() for pair in fields.items()}
    agreed = dict(pairs)
    if len(pairs) != len(agreed):
        raise ValueError(f"a config field holds one width, these differ: {sorted(pairs)}")
    return agreed


# --- masking -------------------------------------------------------------------------------------------------------


def _silencer(group: Group, kept_K: Tensor) -> Visitor:
    if group.port == "residual":
        return lambda activation, before: activation if kept_K.numel() else before
    gone_C = ~stays(group, kept_K).repeat_interleave(group.size)
    return lambda activation, _: activation.masked_fill(gone_C.to(activation.device), 0)


def stays(group: Group, kept_K: Tensor) -> Tensor:
    """Which units of the group are in `kept_K`, bool (U)."""
    return torch.zeros(group.count, dtype=torch.bool).index_fill_(0, kept_K.cpu(), True)


# --- slicing -------------------------------------------------------------------------------------------------------


def _slice(model: nn.Module, groups: Sequence[Group], kept: Mapping[Site, Tensor]) -> None:
    for (name, dim), stays_I in staying(model, groups, kept).items():
        path, _, leaf = name.rpartition(".")
        _keep(model.get_submodule(path), leaf, dim, stays_I.nonzero().flatten())
        _remember_shape(model.get_submodule(path))


def staying(model: nn.Module, groups: Sequence[Group], kept: Mapping[Site, Tensor]) -> dict[tuple[str, int], Tensor]:
    """(parameter, dimension) -> which of its indices stay, bool (I): those whose every owner keeps the unit."""
    found: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        stays_U = stays(group, kept[group.site])
        for slab in group.slabs:
            length = model.get_parameter(slab.parameter).shape[slab.dim]
            stays_I = found.setdefault((slab.parameter, slab.dim), torch.ones(length, dtype=torch.bool))
            stays_I[slab.start : slab.start + group.count * slab.size] &= stays_U.repeat_interleave(slab.size)
    return found


def _keep(module: nn.Module, name: str, dim: int, kept_I: Tensor) -> None:
    old = module.get_parameter(name)
    sliced = old.detach().index_select(dim, kept_I.to(old.device)).contiguous()
    setattr(module, name, nn.Parameter(sliced, requires_grad=old.requires_grad))


def _remember_shape(module: nn.Module) -> None:
    first, second = module.get_parameter("weight").shape
    sizes = {"out_features": first, "in_features": second, "nx": first, "nf": second, "embedding_dim": second}
    for name, size in sizes.items():
        if hasattr(module, name):
            setattr(module, name, size)


# --- configs -------------------------------------------------------------------------------------------------------


def _configs(model: nn.Module) -> list[Any]:
    """The config objects of the model; the stacks of an encoder-decoder have copies of their own."""
    return list({id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values())


def _set(config: Any, fields: Mapping[str, int]) -> None:
    for field, value in fields.items():
        setattr(config, field, value)


def _name_head_size(model: nn.Module, architecture: Architecture, groups: Sequence[Group]) -> None:
    """Where heads go, hidden size and head count no longer say how large a head is."""
    if any(group.kind == "heads" for group in groups):
        rows = [row for stack in architecture.stacks for row in stack.attention]
        size = head_size(model.config, rows[0])
        for config in _configs(model):
            _set(config, {rows[0].head_size: size})


def _settle_layers(
    model: nn.Module, stack: Stack, sizes: Mapping[Site, Mapping[str, int]], *, own_configs: bool
) -> None:
    """Bring what the modules of a layer remember of their sizes in line with their weights."""
    for index, layer in enumerate(layers_of(model, stack)):
        own: dict[str, int] = {}
        for site, fields in sizes.items():
            own |= fields if site[:2] == (stack.name, index) else {}
        known = (module.config for module in layer.modules() if hasattr(module, "config"))
        config = copy(next(known, model.config))  # the layer's own, where an earlier cut has given it one
        _set(config, own)
        for module in layer.modules():
            _settle(module, config)
            if own_configs and hasattr(module, "config"):
                module.config = config


def _settle(module: Any, config: Any) -> None:
    for name, field in REMEMBERED.items():
        if hasattr(module, name) and hasattr(config, field):
            setattr(module, name, getattr(config, field))
    if hasattr(module, "inner_dim") and hasattr(module, "key_value_proj_dim"):
        module.inner_dim = module.n_heads * module.key_value_proj_dim


# --- whole layers --------------------------------------------------------------------------------------------------


def _drop_layers(model: nn.Module, stack: Stack, kept: Mapping[Site, Tensor]) -> None:
    layers = layers_of(model, stack)
    gone = {site.layer for site, kept_K in kept.items() if site[::2] == (stack.name, "layers") and not kept_K.numel()}
    stay = [index for index in range(len(layers)) if index not in gone]
    if len(stay) == len(layers):
        return
    _move_position_bias(stack, layers[0], layers[stay[0]])
    path, _, name = stack.layers.rpartition(".")
    owner = model.get_submodule(path)
    setattr(owner, name, nn.ModuleList(layers[index] for index in stay))
    _number_layers(layers_of(model, stack))
    _set_layer_count(model.config, getattr(owner, "config", model.config), stack, stay)


def _move_position_bias(stack: Stack, old: nn.Module, new: nn.Module) -> None:
    """T5 computes the positions' bias in the first layer, for all."""
    for row in stack.attention:
        if row.position_bias and old is not new:
            path, _, name = row.position_bias.rpartition(".")
            setattr(new.get_submodule(path), name, old.get_submodule(row.position_bias))
            setattr(new.get_submodule(path), f"has_{name}", True)


def _number_layers(layers: nn.ModuleList) -> None:
    """Caches find a layer's keys and values by its index."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                vars(module)["layer_idx"] = index


def _set_layer_count(config: Any, owner: Any, stack: Stack, stay: Sequence[int]) -> None:
    setattr(config, stack.layer_count, len(stay))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in stay]
    if owner is not config:  # the copy of an encoder-decoder's stack counts the layers of that stack
        owner.num_hidden_layers = len(stay)
