"""What the config of a Gemma 4 says of its layers, and the configs of which no stock class holds fewer neurons."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.contract.errors import InvalidModel

MODEL_TYPE = "gemma4_text"
LAYER_SCALAR = ".layer_scalar"  # end of the name of the number that multiplies the output of a layer: no parameter
FULL, SLIDING = "full_attention", "sliding_attention"
# What the class takes where config.json has no such field.
LAYERS, FULL_EVERY, VOCABULARY, INPUT_SIZE = 30, 6, 262_144, 256
HEAD_FIELDS = {"head_dim", "num_key_value_heads"}  # those that the class reads for each layer

Config = Mapping[str, Any]


def layer_types(config: Config) -> list[str]:
    """The type of each layer; the class gives the last one full attention."""
    given, count = config.get("layer_types"), _number(config, "num_hidden_layers", LAYERS)
    types = [SLIDING if (index + 1) % FULL_EVERY else FULL for index in range(count)]
    if isinstance(given, list) and given:
        types = [*map(str, given)]
    return [*types[:-1], FULL]


def has_keys(config: Config, layer: int) -> bool:
    """Whether a layer computes keys and values; the last `num_kv_shared_layers` read those of an earlier one."""
    return layer < _number(config, "num_hidden_layers", LAYERS) - _number(config, "num_kv_shared_layers", 0)


def shares_keys(config: Config, layer: int) -> bool:
    """Whether a layer reads the keys and values of an earlier one."""
    return not has_keys(config, layer)


def has_values(config: Config, layer: int) -> bool:
    """Whether a layer has a projection for values; with `attention_k_eq_v` those of full attention are the keys."""
    is_full = layer_types(config)[layer : layer + 1] == [FULL]
    return has_keys(config, layer) and not (config.get("attention_k_eq_v", False) and is_full)


def has_layer_inputs(config: Config) -> bool:
    """Whether each layer has an input of its own from a second embedding of the tokens."""
    return _number(config, "hidden_size_per_layer_input", INPUT_SIZE) != 0


def check_gemma4(config: Config) -> None:
    """Raise InvalidModel for a config with which the model cannot be slimmed, or the class fails."""
    for holds, reason in _reasons(config):
        if holds:
            raise InvalidModel(f"config.json of a Gemma 4 {reason}", param="model.uri")


def _reasons(config: Config) -> Iterator[tuple[bool, str]]:
    """(whether a config is refused, why and what to give instead)."""
    shared, types = _number(config, "num_kv_shared_layers", 0), layer_types(config)
    has_inputs = has_layer_inputs(config)
    first, second = (_number(config, field, VOCABULARY) for field in ("vocab_size", "vocab_size_per_layer_input"))
    yield (
        bool(config.get("enable_moe_block", False)),
        "says `enable_moe_block`, and experts are not slimmed: give a model without experts",
    )
    yield (
        bool(config.get("use_double_wide_mlp", False)) and shared > 0,
        "says `use_double_wide_mlp`, so that layers without keys of their own have twice the neurons of the others, "
        "and one width is what a slim model has: give a model without it",
    )
    yield (
        config.get("use_bidirectional_attention") == "all",
        "says that all tokens see each other (`use_bidirectional_attention`), and such a model does not write text: "
        "give one whose tokens see those before them",
    )
    yield (
        shared > 0 and set(types[: max(len(types) - shared, 0)]) != set(types),
        "has `num_kv_shared_layers` without layers of each type before them, whose keys these could read: give a model "
        "with such layers",
    )
    yield (
        shared > 0 and not has_inputs,
        "has `num_kv_shared_layers` without `hidden_size_per_layer_input`, with which Gemma4ForCausalLM fails: give a "
        "model with both",
    )
    yield (
        has_inputs and second < first,
        "has a smaller `vocab_size_per_layer_input` than `vocab_size`, so that Gemma4ForCausalLM fails for the last "
        "tokens: give a model with embeddings of one size",
    )
    other = sorted(_fields_of_layers(config) - HEAD_FIELDS)
    yield (
        bool(other),
        f"has {', '.join(other)} in `per_layer_config`, where Gemma4ForCausalLM reads the sizes of heads alone: give a "
        "model whose layers are equal in the others",
    )


def _fields_of_layers(config: Config) -> set[str]:
    """The fields that `per_layer_config` gives to some layers."""
    layers = config.get("per_layer_config")
    fields = layers.values() if isinstance(layers, Mapping) else []
    return {str(name) for own in fields if isinstance(own, Mapping) for name in own}


def _number(config: Config, field: str, default: int) -> int:
    value = config.get(field, default)
    return value if type(value) is int else default
