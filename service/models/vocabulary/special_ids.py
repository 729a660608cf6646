"""The ids of tokens in the configs of a model: config.json with its parts, and generation_config.json."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

# Ends of the names of fields that hold an id, or a list of ids.
NAMED = ("_token_id", "_token_index", "_token_ids")
# Fields of generation_config.json with lists of ids, some of them nested. Ids of removed tokens are left out of them.
LISTED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")


def is_named(field: object, value: object) -> bool:
    """Whether a field names tokens that the model needs, such as the end of a text."""
    return isinstance(field, str) and field.endswith(NAMED) and value is not None


def named_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that the fields of a config name, and those of its parts."""
    for field, value in config.items():
        if is_named(field, value):
            yield from (number for number in _listed(value) if type(number) is int and number >= 0)
        elif isinstance(value, Mapping):
            yield from named_ids(value)


def renumber(fields: MutableMapping[str, Any], ids: Mapping[int, int]) -> None:
    """Give the fields of a config, such as `vars(config)`, the new ids; those that `ids` lacks stay as they are."""
    for field, value in list(fields.items()):
        if is_named(field, value):
            new = [ids.get(each, each) for each in _listed(value)]
            fields[field] = new if isinstance(value, list) else new[0]
        elif field in LISTED and value is not None:
            fields[field] = _kept(value, ids) or None
        elif field == "forced_decoder_ids" and value is not None:
            fields[field] = [[place, ids[token]] for place, token in value if token in ids] or None
        elif field == "sequence_bias" and value is not None:
            fields[field] = _kept_biases(value, ids) or None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kept(listed: Any, ids: Mapping[int, int]) -> list[Any]:
    """The new ids of a list; a list within it goes as a whole where one of its tokens is gone."""
    found: list[Any] = []
    for each in listed:
        if isinstance(each, list):
            inner = _kept(each, ids)
            found += [inner] if len(inner) == len(each) else []
        elif each in ids:
            found.append(ids[each])
    return found


def _kept_biases(biases: Any, ids: Mapping[int, int]) -> Any:
    pairs = biases.items() if isinstance(biases, Mapping) else biases
    kept = [(_kept(list(tokens), ids), len(tokens), bias) for tokens, bias in pairs]
    whole = [(tokens, bias) for tokens, length, bias in kept if len(tokens) == length]
    if isinstance(biases, Mapping):
        return {tuple(tokens): bias for tokens, bias in whole}
    return [[tokens, bias] for tokens, bias in whole]
