"""What config.json of a supported family may not say. The plan and the worker check it by these functions alone."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.models.families.config_values import check_values
from service.models.families.family import ModelFamily
from service.models.tensors import gemma4

LAYER_LISTS = ("layer_types", "no_rope_layers")  # fields with an entry for each layer


def check_settings(config: Mapping[str, Any], family: ModelFamily) -> None:
    """Raise InvalidModel for a padding token that the model cannot have, or that its class needs and lacks, and for
    other fields with which the class fails or which a slim model cannot have."""
    check_values(config)
    _check_padding(config, family)
    for stack in family.names.stacks:
        check_values(stack.config_in(config))
        if family.kind in ("causal", "decoder_classifier") or stack.part:
            own = stack.config_in(config)
            _check_padding_token(own)
            _check_heads(own, family)
            _check_layer_lists(own)
    if family.names.experts:
        _check_experts(config, family)
    if family.model_type == "exaone4":
        _check_window_pattern(config)
    if family.model_type == gemma4.MODEL_TYPE:
        gemma4.check_gemma4(config)


def num_classes(config: Mapping[str, Any]) -> int:
    """Outputs of a classification head; a config.json that does not say has two."""
    named, number = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict):
        return len(named)
    return number if type(number) is int else 2


def _check_padding(config: Mapping[str, Any], family: ModelFamily) -> None:
    _check_padding_token(config)
    pad = config.get("pad_token_id")
    if family.kind == "decoder_classifier" and (type(pad) is not int or pad < 0):
        message = (
            f"config.json has no pad_token_id, by which {family.model_class} finds the last token of a text: add it"
        )
        raise InvalidModel(message, param="model.uri")
    counts = family.names.numbers_after_padding or family.model_type == "m2m_100"
    if counts and "pad_token_id" in config and pad is None:
        message = f"config.json has no pad_token_id, from which {family.model_type} counts its positions: add it"
        raise InvalidModel(message, param="model.uri")


def _check_padding_token(config: Mapping[str, Any]) -> None:
    """Refuse a padding token that is not in the vocabulary."""
    pad, size = config.get("pad_token_id"), config.get("vocab_size")
    if type(pad) is int and type(size) is int and not -size <= pad < size:
        message = f"config.json has the pad_token_id {pad}, and the vocabulary has {size} tokens: give one of them"
        raise InvalidModel(message, param="model.uri")


def _check_heads(config: Mapping[str, Any], family: ModelFamily) -> None:
    """Refuse a config without a number of heads, or a size of them, that the class computes with."""
    names = family.names
    for field in (names.key_value_heads, names.head_size):
        is_null = field in config and config[field] is None and field not in names.nullable
        if is_null or (field in names.needed and config.get(field) is None):
            message = f"config.json has no number in {field!r}, without which {family.model_class} fails: give it there"
            raise InvalidModel(message, param="model.uri")


def _check_layer_lists(config: Mapping[str, Any]) -> None:
    """Refuse a list that lacks an entry for a layer."""
    layers = config.get("num_hidden_layers")
    for field in LAYER_LISTS:
        entries = config.get(field)
        if isinstance(entries, list) and type(layers) is int and len(entries) < layers:
            message = (
                f"config.json has {len(entries)} entries in {field!r} and {layers} layers: give one for each layer"
            )
            raise InvalidModel(message, param="model.uri")


def _check_window_pattern(config: Mapping[str, Any]) -> None:
    """Refuse a pattern of layers that the class of EXAONE 4 cannot compute."""
    every, window = config.get("sliding_window_pattern", 4), config.get("sliding_window", 0)
    if config.get("layer_types") is None and (window is None or type(every) is not int or every <= 0):
        message = "config.json does not say which layers have a sliding window: give the `layer_types`"
        raise InvalidModel(message, param="model.uri")


def _check_experts(config: Mapping[str, Any], family: ModelFamily) -> None:
    """Refuse a model of which some layers have no experts, and one with fewer experts than a token is sent to."""
    names = family.names
    every, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers")
    if every != 1 or dense:
        field = "mlp_only_layers" if dense else "decoder_sparse_step"
        message = f"config.json says in {field!r} that some layers have no experts: give a model whose layers are alike"
        raise InvalidModel(message, param="model.uri")
    count, chosen = (names.value(config, field) for field in (names.experts, names.experts_per_token))
    if type(count) is int and type(chosen) is int and not 0 < chosen <= count:
        message = (
            f"config.json sends each token to {chosen} experts ({names.experts_per_token!r}), and a layer has {count}: "
            "give a number from 1 to that of the experts"
        )
        raise InvalidModel(message, param="model.uri")
