"""Layers of a model with experts that have none: first ones with a feed-forward block, and those behind the last."""

from collections.abc import Mapping
from typing import Any

FIRST_DENSE = "first_k_dense_replace"


def num_dense_layers(config: Mapping[str, Any]) -> int:
    """The number of first layers without experts; that of the class where config.json does not say."""
    count = config.get(FIRST_DENSE, 1)
    return count if type(count) is int else 1


def is_dense(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has a feed-forward block in place of experts."""
    return layer < num_dense_layers(config)


def has_experts(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts."""
    return not is_dense(config, layer)


def is_behind_the_last(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer is one of those behind the last that guess further tokens, which the model does not read."""
    layers = config.get("num_hidden_layers")
    return type(layers) is int and layer >= layers
