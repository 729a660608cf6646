"""What config.json of a supported family may not say. The plan and the worker check it by these functions alone."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.families.table import ModelFamily


def check_settings(config: Mapping[str, Any], family: ModelFamily) -> None:
    """Raise InvalidModel for a padding token that the model cannot have, or that its class needs and lacks."""
    _check_padding(config, family)


def num_classes(config: Mapping[str, Any]) -> int:
    """Outputs of a classification head; a config.json that does not say has two."""
    named, number = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict):
        return len(named)
    return number if type(number) is int else 2


def _check_padding(config: Mapping[str, Any], family: ModelFamily) -> None:
    pad, size = config.get("pad_token_id"), config.get("vocab_size")
    if type(pad) is int and type(size) is int and not -size <= pad < size:
        message = f"config.json has the pad_token_id {pad}, and the vocabulary has {size} tokens: give one of them"
        raise InvalidModel(message, param="model.uri")
    if family.kind == "decoder_classifier" and (type(pad) is not int or pad < 0):
        message = (
            f"config.json has no pad_token_id, by which {family.model_class} finds the last token of a text: add it"
        )
        raise InvalidModel(message, param="model.uri")
    if family.model_type == "roberta" and "pad_token_id" in config and pad is None:
        message = "config.json has no pad_token_id, from which RoBERTa counts its positions: add it"
        raise InvalidModel(message, param="model.uri")
