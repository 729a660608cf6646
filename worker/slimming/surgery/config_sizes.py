"""The sizes that a model holds beside its weights: fields of its configs, and attributes of its modules."""

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from torch import nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.units.attention import head_size
from worker.slimming.units.groups import Group, Site
from worker.slimming.units.layers import layers_of

# (attribute of a module, the config field that it is a copy of, where the config has this)
COPIED_FIELDS = (
    ("intermediate_size", "intermediate_size"),
    ("num_key_value_heads", "num_key_value_heads"),
    ("n_heads", "num_heads"),
    ("key_value_proj_dim", "d_kv"),
    ("num_experts", "num_experts"),
    ("num_experts", "n_routed_experts"),
    ("top_k", "num_experts_per_tok"),
    ("num_experts_per_tok", "num_experts_per_tok"),
)


def field_values(group: Group, num_kept: int) -> dict[str, int]:
    """Config field -> its value where the group keeps `num_kept` units."""
    counts = {field: num_kept // group.rows * share for field, share in group.fields}
    return counts | {field: min(value, num_kept) for field, value in group.limited}


def agreed_sizes(sizes: Iterable[Mapping[str, int]]) -> dict[str, int] | None:
    """Config field -> the one value that all give it; None where two differ."""
    pairs = {pair for fields in sizes for pair in fields.items()}
    agreed = dict(pairs)
    return agreed if len(agreed) == len(pairs) else None


def configs_of(model: nn.Module) -> list[Any]:
    """The config objects of the model's modules, each once; the stacks of an encoder-decoder have their own."""
    return list({id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values())


def set_sizes(config: Any, fields: Mapping[str, int]) -> None:
    """Set the fields of the config; those of a part, such as "decoder.head_dim", where the config has this part."""
    for field, value in fields.items():
        part, _, name = field.rpartition(".")
        owner = getattr(config, part, None) if part else config
        if owner is not None:
            setattr(owner, name, value)


def without_part(fields: Mapping[str, int]) -> dict[str, int]:
    """The fields of one stack by their names in the config that holds them."""
    return {field.rpartition(".")[2]: value for field, value in fields.items()}


def set_head_size(model: nn.Module, architecture: Architecture) -> None:
    """Set the size of a head in every config: with fewer heads it no longer follows from the hidden size."""
    whole: Any = model.config
    rows = [(stack, row) for stack in architecture.stacks for row in stack.attention]
    sizes = {stack.field(row.head_size): head_size(stack.config_in(whole), row) for stack, row in rows}
    for config in configs_of(model):
        set_sizes(config, sizes)


def update_layers(
    model: nn.Module, stack: Stack, sizes: Mapping[Site, Mapping[str, int]], *, own_configs: bool
) -> None:
    """Set the sizes that the modules of each layer hold to those of its group's `sizes`.

    With `own_configs` each layer also gets a config of its own with these sizes.
    """
    for index, layer in enumerate(layers_of(model, stack)):
        present = (module.config for module in layer.modules() if hasattr(module, "config"))
        config = copy(next(present, model.config))  # the layer's own, if an earlier cut has made one
        for site, fields in sizes.items():
            if site[:2] == (stack.name, index):
                set_sizes(config, without_part(fields))
        for module in layer.modules():
            _update_module(module, config)
            if own_configs and hasattr(module, "config"):
                module.config = config


def update_attributes(model: Any) -> None:
    """Set the sizes that the model itself holds, outside its layers, to those of its config."""
    _update_module(model, model.config)


def _update_module(module: Any, config: Any) -> None:
    for name, field in COPIED_FIELDS:
        if hasattr(module, name) and hasattr(config, field):
            setattr(module, name, getattr(config, field))
    if hasattr(module, "inner_dim") and hasattr(module, "key_value_proj_dim"):
        module.inner_dim = module.n_heads * module.key_value_proj_dim
