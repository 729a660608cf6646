"""The layout "per_layer": a cut model as the class that can hold it, and how such a checkpoint is known and loaded.

The class and the file that goes into the checkpoint are one source, `worker.checkpoints.modeling_taskslim`.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from service.contract.families import FAMILIES
from service.contract.per_layer import MODELLING_FILE, is_per_layer
from worker.checkpoints import modeling_taskslim
from worker.checkpoints.llama_as_mistral import stock_form
from worker.slimming.architectures import Architecture
from worker.slimming.config_sizes import field_values
from worker.slimming.units import locate

Widths = dict[str, list[dict[str, int]]]


def holding_form(model: PreTrainedModel, architecture: Architecture) -> PreTrainedModel:
    """The cut model as the class that can hold it: the stock one where its layers are alike, else one of ours."""
    widths = layer_widths(model, architecture)
    pairs = {pair for layers in widths.values() for fields in layers for pair in fields.items()}
    if len(dict(pairs)) == len(pairs) and not is_own(model):
        for module in model.modules():
            if hasattr(module, "config"):
                for field, value in pairs:
                    setattr(module.config, field, value)
        return stock_form(model)
    return _twin(model, widths)


def _twin(model: PreTrainedModel, widths: Widths) -> PreTrainedModel:
    stock = type(model).__name__.removeprefix(modeling_taskslim.PREFIX)
    with torch.device(model.device):
        twin: PreTrainedModel = own_class(stock)(_config(model, widths))
    twin.load_state_dict(model.state_dict(), assign=True)  # the same tensors, in the dtypes that they have
    twin.tie_weights()
    if model.can_generate():
        twin.generation_config = model.generation_config
    twin.eval()
    return twin


def _config(model: PreTrainedModel, widths: Widths) -> Any:
    config = deepcopy(model.config)
    config.layer_widths = widths
    if len(widths) == 1:  # what transformers itself knows; it has no words for two stacks
        [layers] = widths.values()
        config.allow_global_per_layer_attribute_access = (
            True  # stock code checks head counts, and builds what we rebuild
        )
        config.per_layer_config = dict(enumerate(layers))
    return config


def layer_widths(model: PreTrainedModel, architecture: Architecture) -> Widths:
    """Stack -> the config fields of each layer, by the shapes of its weights."""
    kinds = [unit.value for unit in FAMILIES[model.config.model_type].units if unit.value in ("ffn", "heads")]
    found: Widths = {stack.name: [] for stack in architecture.stacks}
    for group in locate(model, architecture, kinds):
        layers = found[group.site.stack]
        layers += [{}] * (group.site.layer + 1 - len(layers))
        if not group.level:  # the config holds once what every layer has in common
            layers[group.site.layer] = layers[group.site.layer] | field_values(group, group.count)
    return found


def is_own(model: PreTrainedModel) -> bool:
    """Whether the layers of the model have widths of their own."""
    return isinstance(model, modeling_taskslim.PerLayer)


def own_class(stock: str) -> Any:
    """Our class over a stock one."""
    return getattr(modeling_taskslim, modeling_taskslim.PREFIX + stock)


def class_of(config: Mapping[str, Any], auto_class: Any) -> Any:
    """What loads a checkpoint with this config.json: our class for our layout, else the Auto class of its family."""
    return getattr(modeling_taskslim, config["architectures"][0]) if is_per_layer(config) else auto_class


def is_sound(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the checkpoint is in our layout, for a family that has it, and with our modelling file.

    That file is never run by us, and still no other may lie there, byte by byte.
    """
    if not is_per_layer(config):
        return False
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or config["architectures"][0] != modeling_taskslim.PREFIX + family.model_class:
        return False
    widths, file = config["layer_widths"], directory / MODELLING_FILE
    return (
        widths.keys() == {stack.name for stack in family.names.stacks}
        and all(_are_widths(layers) for layers in widths.values())
        and file.is_file()
        and file.read_bytes() == Path(modeling_taskslim.__file__).read_bytes()
    )


def _are_widths(layers: object) -> bool:
    return isinstance(layers, list) and all(
        isinstance(fields, dict) and all(isinstance(value, int) and value > 0 for value in fields.values())
        for fields in layers
    )
