"""Models whose layers have different widths, as Taskslim writes them with `output.layout: "per_layer"`.

A copy of this file is in the checkpoint, so that `from_pretrained(..., trust_remote_code=True)` finds the class there;
Taskslim itself loads the checkpoint with its own copy. It needs transformers alone. `config.layer_widths` has, for each
stack, the config fields of each of its layers: {"decoder": [{"intermediate_size": 640}, {"intermediate_size": 1024}]}.
"""

import inspect
from copy import copy
from functools import cache
from typing import Any

import transformers
from torch import nn
from transformers.models.auto import modeling_auto

PREFIX = "PerLayer"

# Auto class -> the stock classes that it finds, by model_type.
AUTO_CLASSES: dict[str, Any] = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
}


class PerLayer:
    """Comes before a stock class: builds each layer again, from a config with the widths of that layer."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        stacks = _stacks(self, config.layer_widths)
        for name, path in stacks.items():
            owner = self.get_submodule(path.rpartition(".")[0])  # type: ignore[attr-defined]
            _rebuild(self.get_submodule(path), getattr(owner, "config", config), config.layer_widths[name])  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]


def _stacks(model: Any, names: Any) -> dict[str, str]:
    """Stack -> path of its layers: the outermost module lists of the model.

    Where there are two, the name of the stack is a part of the path.
    """
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    if len(outermost) == len(names) == 1:
        return dict(zip(names, outermost, strict=True))
    found = {name: path for name in names for path in outermost if name in path.split(".")}
    if len(found) != len(outermost):
        raise ValueError(f"layer_widths has the stacks {sorted(names)}, the model {outermost}")
    return found


def _rebuild(layers: Any, config: Any, widths: list[dict[str, int]]) -> None:
    """Replace each layer by one that is built from a copy of the config with the layer's widths."""
    if len(widths) != len(layers):
        raise ValueError(f"layer_widths has {len(widths)} layers, the model {len(layers)}")
    for index, fields in enumerate(widths):
        own = copy(config)
        for field, value in fields.items():
            setattr(own, field, value)
        kind = type(layers[index])
        # T5 computes the position bias in the first layer, for all layers.
        known = {"config": own, "layer_idx": index, "has_relative_attention_bias": index == 0}
        layers[index] = kind(**{name: known[name] for name in inspect.signature(kind).parameters if name in known})


@cache
def _class(stock: str) -> type:
    """The per-layer class over the stock class with this name."""
    auto_class = next(auto for auto, classes in AUTO_CLASSES.items() if stock in classes.values())
    # transformers copies this file into the checkpoint, and writes `auto_map`, for a class that has an `_auto_class`.
    body = {"__module__": __name__, "_auto_class": auto_class}
    return type(PREFIX + stock, (PerLayer, getattr(transformers, stock)), body)


def __getattr__(name: str) -> type:
    """Makes `PerLayerLlamaForCausalLM` and its like when they are asked for."""
    stock = name.removeprefix(PREFIX)
    if stock == name or not any(stock in classes.values() for classes in AUTO_CLASSES.values()):
        raise AttributeError(name)
    return _class(stock)
