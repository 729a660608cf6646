"""Structured removal: slices units out of a model and sets its config to the new sizes.

It is exact: no weight that stays changes, and the sliced model computes what the masked one does (see `masking`).

Shape suffixes: U units of a group, K units that stay, I indices along one dimension of a parameter.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.streaming.mapped import beside
from worker.slimming.surgery.config_sizes import (
    agreed_sizes,
    configs_of,
    field_values,
    set_head_size,
    set_sizes,
    update_attributes,
    update_layers,
)
from worker.slimming.units.groups import Group, Kept, Site
from worker.slimming.units.layers import layers_of, module_after_first
from worker.slimming.units.locating import UNITS, locate
from worker.slimming.units.slices import tensor_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)

LAYER_LISTS = ("layer_types", "no_rope_layers")  # config fields with an entry for each layer
# Config fields with the number of first layers that see the whole text, or that have no experts.
FIRST_LAYERS = ("max_window_layers", "first_k_dense_replace")


def cut(model: nn.Module, architecture: Architecture, kept: Kept, layout: str = "uniform") -> None:
    """Slice the model in place to the `kept` units and set its config, so that a stock class can load it when saved.

    With the layout "uniform" all layers of a stack share one width for each config field. With "per_layer" a layer has
    its own widths, which the config of its modules then holds; the model's config keeps the old value of such a field.
    Raises ValueError for a site that the model does not have, and where `kept` gives a config field two widths that
    have to be equal.
    """
    groups = groups_of(model, architecture, kept)
    sizes = {group.site: field_values(group, kept[group.site].numel()) for group in groups if group.kind != "layers"}
    shared = {group.site for group in groups if layout == "uniform" or group.level}
    shared_sizes = agreed_sizes(fields for site, fields in sizes.items() if site in shared)
    if shared_sizes is None:
        raise ValueError(f"a config field holds one width, and these differ: {sizes}")
    if any(group.kind == "heads" for group in groups):
        set_head_size(model, architecture)
    _slice(model, [group for group in groups if group.kind != "layers"], kept)
    for config in configs_of(model):
        set_sizes(config, shared_sizes)
    for stack in architecture.stacks:
        update_layers(model, stack, sizes, own_configs=layout != "uniform")
        _remove_layers(model, stack, kept)
    if layout == "uniform":
        update_attributes(model)


def copy_sharing_tensors(module: ModuleT) -> ModuleT:
    """A copy with modules and configs of its own over the same tensors; a cut of the copy leaves the original whole."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return deepcopy(module, shared)


def copy_with_tensors(module: ModuleT) -> ModuleT:
    """A copy that shares nothing; its parameters are in files where those of the module are."""
    own: dict[int, Any] = {
        id(each): nn.Parameter(beside(each, each.detach().clone()), requires_grad=each.requires_grad)
        for each in module.parameters()
    }
    return deepcopy(module, own)


def groups_of(model: nn.Module, architecture: Architecture, kept: Kept) -> list[Group]:
    """The groups of the model that `kept` names. Raises ValueError for a site that the model does not have."""
    kinds = [kind for kind in UNITS if any(_is_of(site, kind) for site in kept)]
    groups = [group for group in locate(model, architecture, kinds) if group.site in kept]
    unknown = kept.keys() - {group.site for group in groups}
    if unknown:
        raise ValueError(f"the model has no units {', '.join(sorted(map(str, unknown)))}")
    return groups


def _is_of(site: Site, kind: str) -> bool:
    """Whether the site is of this kind: the kind ends its unit's name, such as "cross_heads" or "value_dims"."""
    return site.unit.endswith("_dims" if kind == "head_dims" else kind)


def stays(group: Group, kept_K: Tensor) -> Tensor:
    """Which units of the group are in `kept_K`, bool (U)."""
    return torch.zeros(group.count, dtype=torch.bool).index_fill_(0, kept_K.cpu(), True)


# --- parameters ----------------------------------------------------------------------------------------------------


def staying(model: nn.Module, groups: Sequence[Group], kept: Kept) -> dict[tuple[str, int], Tensor]:
    """(name, dimension) of a parameter or buffer -> which of its indices stay, bool (I): those whose units all stay.

    Where the parameter has an entry for each row of a group, each of these has indices of its own, bool (R, I).
    """
    found: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        stays_U = stays(group, kept[group.site])
        for part in (*group.slices, *group.buffers):
            stays_X = stays_U.view(group.rows, -1) if part.by_row else stays_U
            length = tensor_of(model, part.parameter).shape[part.dim]
            whole = torch.ones(*stays_X.shape[:-1], length, dtype=torch.bool)
            stays_I = found.setdefault((part.parameter, part.dim), whole)
            stop = part.start + stays_X.shape[-1] * part.size
            stays_I[..., part.start : stop] &= stays_X.repeat_interleave(part.size, -1)
    return found


def _slice(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    # The indices of each expert first: the rows of these are those of the whole model.
    parts = sorted(staying(model, groups, kept).items(), key=lambda part: -part[1].dim())
    for (name, dim), stays_I in parts:
        path, _, leaf = name.rpartition(".")
        _keep_indices(model.get_submodule(path), leaf, dim, stays_I)
        _set_shape_attributes(model.get_submodule(path))


def _keep_indices(module: nn.Module, name: str, dim: int, stays_I: Tensor) -> None:
    old = tensor_of(module, name)
    sliced = _taken(old.detach(), dim, stays_I.to(old.device)).contiguous()
    sliced = beside(old, sliced)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(sliced, requires_grad=old.requires_grad) if is_parameter else sliced)


def _taken(tensor: Tensor, dim: int, stays_I: Tensor) -> Tensor:
    """The part of a tensor that stays; with indices for each entry along the first dimension, the part of each."""
    if stays_I.dim() == 1:
        return tensor.index_select(dim, stays_I.nonzero().flatten())
    index_RK = stays_I.nonzero()[:, 1].view(len(stays_I), -1)
    return torch.stack([each.index_select(dim - 1, index_K) for each, index_K in zip(tensor, index_RK, strict=True)])


def _set_shape_attributes(module: nn.Module) -> None:
    """Set the attributes in which Linear, Embedding, Conv1D and experts of transformers hold the shape of a weight."""
    if hasattr(module, "intermediate_dim"):
        down = module.get_parameter("down_proj")
        vars(module)["intermediate_dim"] = down.numel() // (len(down) * vars(module)["hidden_dim"])
    if getattr(module, "weight", None) is None:  # the tensors of all experts, whose number is a copy of a config field
        return
    first, second = module.get_parameter("weight").shape
    sizes = {"out_features": first, "in_features": second, "nx": first, "nf": second, "embedding_dim": second}
    for name, size in sizes.items():
        if hasattr(module, name):
            setattr(module, name, size)


# --- whole layers --------------------------------------------------------------------------------------------------


def _remove_layers(model: nn.Module, stack: Stack, kept: Kept) -> None:
    """Remove the layers of the stack of which `kept` has no unit."""
    layers = layers_of(model, stack)
    gone = {site.layer for site, kept_K in kept.items() if site[::2] == (stack.name, "layers") and not kept_K.numel()}
    stay = [index for index in range(len(layers)) if index not in gone]
    if len(stay) == len(layers):
        return
    _move_position_bias(stack, layers[0], layers[stay[0]])
    _check_first_layer(model, stack, layers[0], layers[stay[0]])
    path, _, name = stack.layers.rpartition(".")
    owner = model.get_submodule(path)
    setattr(owner, name, nn.ModuleList(layers[index] for index in stay))
    _number_layers(layers_of(model, stack))
    _set_layer_count(model.config, getattr(owner, "config", model.config), stack, stay)


def _move_position_bias(stack: Stack, old: nn.Module, new: nn.Module) -> None:
    """Move the position bias, which T5 computes in its first layer for all layers, to the first layer that stays."""
    for row in stack.attention:
        if row.position_bias and row.shares_position_bias and old is not new:
            path, _, name = row.position_bias.rpartition(".")
            setattr(new.get_submodule(path), name, old.get_submodule(row.position_bias))
            setattr(new.get_submodule(path), f"has_{name}", True)


def _check_first_layer(model: nn.Module, stack: Stack, old: nn.Module, new: nn.Module) -> None:
    """Raise ValueError where another layer than the first cannot take its place."""
    if old is new:
        return
    own = {name for name, _ in old.named_parameters()} - _position_biases(stack)
    others = {name for name, _ in new.named_parameters()} - _position_biases(stack)
    if own != others or module_after_first(model, stack) is not None:
        raise ValueError(f"the first layer of the {stack.name} has to stay: no other can take its place")


def _position_biases(stack: Stack) -> set[str]:
    return {f"{row.position_bias}.weight" for row in stack.attention if row.position_bias}


def _number_layers(layers: nn.ModuleList) -> None:
    """Number the layers anew: a key-value cache finds the entries of a layer by its index."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                vars(module)["layer_idx"] = index


def _set_layer_count(config: Any, stack_config: Any, stack: Stack, stay: Sequence[int]) -> None:
    """Set the number of layers in the model's config, and in the stack's own copy in an encoder-decoder."""
    own = stack.config_in(config)
    setattr(own, stack.layer_count, len(stay))
    for field in LAYER_LISTS:
        if entries := getattr(own, field, None):
            setattr(own, field, [entries[index] for index in stay])
    for field in FIRST_LAYERS:
        if getattr(own, field, None) is not None:
            setattr(own, field, sum(index < getattr(own, field) for index in stay))
    if stack_config is not own:
        stack_config.num_hidden_layers = len(stay)
