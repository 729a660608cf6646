"""The config of the model that is slimmed, where config.json describes it as a part of another or by another class."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.models.families.per_layer import is_per_layer

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
    model_type: str  # of a text model with the same weights
    part: str  # its class
    defaults: Mapping[str, Any] = {}  # values that its config.json may leave out, and that the two classes differ in


GEMMA3_SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}
MISTRAL3 = "Mistral3ForConditionalGeneration"
# model_type of the whole -> that of its part, as config.json has it -> the part. The first is what one without it has.
TEXT_PARTS: dict[str, dict[str, TextPart]] = {
    "gemma3": {
        "gemma3_text": TextPart("Gemma3ForConditionalGeneration", "gemma3_text", "Gemma3ForCausalLM", GEMMA3_SIZES)
    },
    "gemma4": {"gemma4_text": TextPart("Gemma4ForConditionalGeneration", "gemma4_text", "Gemma4ForCausalLM")},
    "mistral3": {
        "mistral": TextPart(MISTRAL3, "mistral", "MistralForCausalLM"),
        "ministral3": TextPart(MISTRAL3, "ministral3", "Ministral3ForCausalLM"),
    },
    "qwen3_5": {
        "qwen3_5_text": TextPart("Qwen3_5ForConditionalGeneration", "qwen3_5_text", "Qwen3_5ForCausalLM"),
    },
    # Its positions in time, height and width are one and the same in a text, as those of a Qwen3.
    "qwen3_vl": {
        "qwen3_vl_text": TextPart(
            "Qwen3VLForConditionalGeneration", "qwen3", "Qwen3ForCausalLM", {"rope_theta": 500_000.0}
        )
    },
}
IN_THREE_DIMENSIONS = ("mrope_section", "mrope_interleaved")
TIED = "tie_word_embeddings"
OF_THE_WHOLE = ("dtype", "torch_dtype", TIED, "quantization_config", "auto_map")
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
    rows, named = TEXT_PARTS[config["model_type"]], config.get("architectures")
    row = rows.get(str(text.get("model_type", next(iter(rows)))))
    if row is None:
        return config
    text = _in_one_dimension(text) if row.model_type == "qwen3" else text
    shared = {field: config[field] for field in OF_THE_WHOLE if field in config}
    tied = {field: value for field, value in shared.items() if field == TIED}  # the head is a module of the whole
    own = {"model_type": row.model_type, "architectures": [row.part] if named in (None, [row.whole]) else named}
    return {**row.defaults, **shared, **text, **tied, **own}


def _in_one_dimension(text: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a text part without what says how rotary positions are shared out to three dimensions."""
    found = dict(text)
    for field in ("rope_parameters", "rope_scaling"):
        if isinstance(rope := text.get(field), dict):
            found[field] = {name: value for name, value in rope.items() if name not in IN_THREE_DIMENSIONS}
    return found


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
