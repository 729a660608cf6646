"""The layout "per_layer": converts a cut model to a class whose layers have different widths, and checks such models.

The source of that class, `worker.checkpoints.model_classes.modeling_taskslim`, is also copied into the checkpoint.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from service.contract.options import Unit
from service.models.families.per_layer import AUTO_BASE, MODULE, is_per_layer
from service.models.families.table import FAMILIES
from worker.checkpoints.model_classes import modeling_taskslim
from worker.checkpoints.model_classes.llama_as_mistral import to_stock_class
from worker.checkpoints.tying import take_tensors
from worker.slimming.architectures import Architecture
from worker.slimming.surgery.config_sizes import agreed_sizes, configs_of, field_values, set_sizes, without_part
from worker.slimming.units.locating import locate

# Families whose class reads the sizes of heads in `per_layer_config`, and fails where layers of one type differ there.
OWN_LAYER_FIELDS = ("gemma4_text",)
WITH_WIDTHS = ("ffn", "heads", "experts")  # units of which each layer may have its own number
# Stack -> the config fields of each of its layers.
LayerWidths = dict[str, list[dict[str, int]]]


def to_loadable_class(model: PreTrainedModel, architecture: Architecture) -> PreTrainedModel:
    """The cut model in a class that can load it: a stock class where all layers of a stack have the same widths, else a
    per-layer class. The tensors are the same."""
    widths = layer_widths(model, architecture)
    sizes = agreed_sizes(fields for layers in widths.values() for fields in layers)
    if sizes is None or has_per_layer_class(model):
        return _to_per_layer_class(model, widths)
    for config in configs_of(model):
        set_sizes(config, sizes)
    return to_stock_class(model)


def _to_per_layer_class(model: PreTrainedModel, widths: LayerWidths) -> PreTrainedModel:
    stock = type(model).__name__.removeprefix(modeling_taskslim.PREFIX)
    with torch.device("meta"):  # without weights of its own, which would take as much memory as those of the model
        without_pooler = {"add_pooling_layer": False} if getattr(model, "pooler", model) is None else {}
        config = _per_layer_config(model, widths)
        config.auto_map = base_entry(config.model_type, stock)
        converted: PreTrainedModel = per_layer_class(stock)(config, **without_pooler)
    take_tensors(converted, model)
    if model.can_generate():
        converted.generation_config = model.generation_config
    converted.eval()
    return converted


def base_entry(model_type: str, stock: str) -> dict[str, str]:
    """The entry of `auto_map` for the model without its head, which the transformers back end of vLLM builds.

    transformers writes the entry for the class of the model itself. Empty where that is the class without a head, and
    for families with experts, whose matrices transformers does not put together for that class.
    """
    base = MODEL_MAPPING_NAMES[model_type]
    has_none = base == stock or Unit.experts in FAMILIES[model_type].units
    return {} if has_none else {AUTO_BASE: f"{MODULE}.{modeling_taskslim.PREFIX}{base}"}


def _per_layer_config(model: PreTrainedModel, widths: LayerWidths) -> Any:
    config = deepcopy(model.config)
    config.layer_widths = {stack: [without_part(fields) for fields in layers] for stack, layers in widths.items()}
    # transformers has fields for the layers of one stack, and none for two stacks
    if len(widths) == 1 and config.model_type not in OWN_LAYER_FIELDS:
        [layers] = widths.values()
        # Lets stock code read the model's own field when it checks head counts and builds the layers, which are then
        # built again.
        config.allow_global_per_layer_attribute_access = True
        config.per_layer_config = dict(enumerate(layers))
    return config


def layer_widths(model: PreTrainedModel, architecture: Architecture) -> LayerWidths:
    """The widths of every layer, by the shapes of its weights."""
    kinds = [unit.value for unit in FAMILIES[model.config.model_type].units if unit.value in WITH_WIDTHS]
    found: LayerWidths = {stack.name: [] for stack in architecture.stacks}
    for group in locate(model, architecture, kinds):
        layers = found[group.site.stack]
        layers += [{}] * (group.site.layer + 1 - len(layers))
        if not group.level:  # sizes that all layers share stay fields of the model's config
            layers[group.site.layer] = layers[group.site.layer] | field_values(group, group.count)
    return found


def has_per_layer_class(model: PreTrainedModel) -> bool:
    """Whether the model is of a per-layer class."""
    return isinstance(model, modeling_taskslim.PerLayer)


def per_layer_class(stock: str) -> Any:
    """The per-layer class of the stock class with this name."""
    return getattr(modeling_taskslim, modeling_taskslim.PREFIX + stock)


def loader_class(config: Mapping[str, Any], auto_class: Any) -> Any:
    """The class that loads a checkpoint with this config.json: the per-layer class that it names, else `auto_class`."""
    return getattr(modeling_taskslim, config["architectures"][0]) if is_per_layer(config) else auto_class
