"""The config of the model that is slimmed, where config.json describes it as a part of another or by another class."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.families.per_layer import is_per_layer

# Class of a Llama -> the class of the equal Mistral.
MISTRAL_CLASSES = {
    "LlamaForCausalLM": "MistralForCausalLM",
    "LlamaForSequenceClassification": "MistralForSequenceClassification",
}
# Fields that the config of a Mistral does not have. A Llama with biases never gets a head count that needs a Mistral;
# see `Attention.divides_where` in worker.slimming.architectures.
LLAMA_ONLY = ("attention_bias", "mlp_bias", "pretraining_tp", "model_type", "architectures", "transformers_version")


class TextPart(NamedTuple):
    """The text part of a multimodal model."""

    whole: str  # class of the multimodal model
    part: str  # class of a text model with the same weights
    defaults: Mapping[str, Any]  # sizes that the published config.json files leave out


GEMMA3_SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}
TEXT_PARTS = {"gemma3": TextPart("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM", GEMMA3_SIZES)}  # by model_type
OF_THE_WHOLE = ("dtype", "torch_dtype", "tie_word_embeddings", "quantization_config", "auto_map")
# Prefix of tensor names -> what stands in its place in the checkpoint of a text model.
TEXT_PREFIXES = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
}


def effective_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the model itself: the text part of a multimodal model, and a Mistral in place of a Llama whose head
    count does not divide its hidden size, which the stock class refuses."""
    return _as_mistral(_text_part(config))


def plain_name(name: str) -> str:
    """The name of a tensor in the checkpoint of a text model."""
    for prefix, replacement in TEXT_PREFIXES.items():
        if re.match(prefix, name):
            return re.sub(prefix, replacement, name)
    return name


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    if str(config.get("model_type")) not in TEXT_PARTS or not isinstance(text, dict):
        return config
    row, named = TEXT_PARTS[config["model_type"]], config.get("architectures")
    shared = {field: config[field] for field in OF_THE_WHOLE if field in config}
    return {**row.defaults, **shared, **text, "architectures": [row.part] if named in (None, [row.whole]) else named}


def _as_mistral(config: Mapping[str, Any]) -> Mapping[str, Any]:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    is_plain = config.get("model_type") == "llama" and not (config.get("attention_bias") or config.get("mlp_bias"))
    named = config.get("architectures") or ["LlamaForCausalLM"]
    first = named[0] if isinstance(named, list) else named
    if not is_plain or first not in MISTRAL_CLASSES or is_per_layer(config):
        return config
    if type(hidden) is not int or type(heads) is not int:
        return config
    if heads <= 0 or hidden % heads == 0:
        return config
    kept = {field: value for field, value in config.items() if field not in LLAMA_ONLY}
    mistral = {"model_type": "mistral", "architectures": [MISTRAL_CLASSES[first]], "sliding_window": None}
    return kept | mistral
