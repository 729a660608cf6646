"""The most tokens that a model takes."""

from collections.abc import Mapping
from typing import Any

from service.models.families.family import ModelFamily

DEFAULT_PADDING = 1  # of a RoBERTa or XLM-RoBERTa whose config.json does not name the padding token


def max_tokens(family: ModelFamily, config: Mapping[str, Any]) -> int | None:
    """The tokens for which a model has positions, by its config.json.

    None for relative positions, which have no limit, and for a config.json that does not say the number.
    """
    names = family.names
    stated = [stack.config_in(config).get(names.positions) for stack in names.stacks]
    numbers = [number for number in stated if type(number) is int]
    if not numbers or (names.positions_where and not config.get(names.positions_where, True)):
        return None
    positions = min(numbers)
    return positions - _first_position(config) if names.numbers_after_padding else positions


def _first_position(config: Mapping[str, Any]) -> int:
    padding = config.get("pad_token_id", DEFAULT_PADDING)
    return padding + 1 if type(padding) is int else 0
