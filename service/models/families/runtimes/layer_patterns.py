"""Families whose layers have a type by their number, which a runtime takes for granted."""

from collections.abc import Mapping, Sequence
from typing import Any

# Family -> its last layer of this many sees the whole text, the others a sliding window.
PATTERNS = {"gemma2": 2, "gemma3_text": 6, "olmo3": 4}
# Family -> the number of layers with which llama.cpp takes a model to be the one with 27 billion parameters.
LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}


def follows_pattern(family: str, config: Mapping[str, Any]) -> bool:
    """Whether each layer of a config has the type that its number gives it in the family."""
    every, types = PATTERNS[family], config.get("layer_types")
    if types is None:
        return bool(config.get("sliding_window_pattern", every) == every)
    return list(types) == [_type(number, every) for number in range(len(types))]


def every_nth(layer_types: Sequence[str]) -> int | None:
    """The n for which the layers whose number from 0 is divisible by n see the whole text; None if there is none."""
    numbers = range(len(layer_types))
    for every in range(1, len(layer_types) + 1):
        if list(layer_types) == ["sliding_attention" if number % every else "full_attention" for number in numbers]:
            return every
    return None


def _type(number: int, every: int) -> str:
    return "sliding_attention" if (number + 1) % every else "full_attention"
