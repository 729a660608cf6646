"""Models whose layers have widths of their own, as Taskslim writes them with `output.layout: "per_layer"`.

This file lies in the checkpoint too, so that `from_pretrained(..., trust_remote_code=True)` finds the class there;
Taskslim itself loads the checkpoint by its own copy. It needs transformers alone. `config.layer_widths` has, for each
stack, the config fields of each of its layers: {"decoder": [{"intermediate_size": 640}, {"intermediate_size": 1024}]}.
"""

import inspect
from copy import copy
from functools import cache
from typing import Any

import transformers

PREFIX = "PerLayer"
DECODER, ENCODER, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM"
T5_STACKS = {"encoder": "encoder.block", "decoder": "decoder.block"}

# Stock class -> (Auto class that finds it, stack -> path of its layers).
STOCK: dict[str, tuple[str, dict[str, str]]] = {
    "LlamaForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "MistralForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "Qwen2ForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "Qwen3ForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "Gemma2ForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "Gemma3ForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "Phi3ForCausalLM": (DECODER, {"decoder": "model.layers"}),
    "GPT2LMHeadModel": (DECODER, {"decoder": "transformer.h"}),
    "OPTForCausalLM": (DECODER, {"decoder": "model.decoder.layers"}),
    "GPTNeoXForCausalLM": (DECODER, {"decoder": "gpt_neox.layers"}),
    "T5ForConditionalGeneration": (SEQ2SEQ, T5_STACKS),
    "MT5ForConditionalGeneration": (SEQ2SEQ, T5_STACKS),
    "BartForConditionalGeneration": (
        SEQ2SEQ,
        {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    ),
    "BertForSequenceClassification": (ENCODER, {"encoder": "bert.encoder.layer"}),
    "RobertaForSequenceClassification": (ENCODER, {"encoder": "roberta.encoder.layer"}),
    "DistilBertForSequenceClassification": (ENCODER, {"encoder": "distilbert.transformer.layer"}),
}


class PerLayer:
    """Before a stock class: builds its layers anew, each from a config with the widths of that layer."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        for stack, path in type(self).STACKS.items():  # type: ignore[attr-defined]
            owner = self.get_submodule(path.rpartition(".")[0])  # type: ignore[attr-defined]
            _rebuild(self.get_submodule(path), getattr(owner, "config", config), config.layer_widths[stack])  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]


def _rebuild(layers: Any, config: Any, widths: list[dict[str, int]]) -> None:
    if len(widths) != len(layers):
        raise ValueError(f"layer_widths has {len(widths)} layers, the config {len(layers)}")
    for index, fields in enumerate(widths):
        own = copy(config)
        for field, value in fields.items():
            setattr(own, field, value)
        kind = type(layers[index])
        # T5 computes the positions' bias in the first layer, for all.
        known = {"config": own, "layer_idx": index, "has_relative_attention_bias": index == 0}
        layers[index] = kind(**{name: known[name] for name in inspect.signature(kind).parameters if name in known})


@cache
def _class(stock: str) -> type:
    auto, stacks = STOCK[stock]
    # transformers writes this file and `auto_map` beside the weights of a class that has an `_auto_class`.
    body = {"__module__": __name__, "_auto_class": auto, "STACKS": stacks}
    return type(PREFIX + stock, (PerLayer, getattr(transformers, stock)), body)


def __getattr__(name: str) -> type:
    stock = name.removeprefix(PREFIX)
    if stock == name or stock not in STOCK:
        raise AttributeError(name)
    return _class(stock)
