"""The values that fields of a config.json may have, whatever its family.

The names of functions are those that transformers knows; a test compares them. A field that is absent or null has the
value of the class, which the class checks.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from service.contract.errors import InvalidModel

MAX_SIZE = 2**24
MAX_LAYERS = 10_000
# Layers of a stack, as its tensors are named -> the fields with their number, the first one that is there.
LAYER_COUNTS = {
    "transformer.h": ("n_layer", "num_hidden_layers"),
    "encoder.block": ("num_layers", "num_hidden_layers"),
    "decoder.block": ("num_decoder_layers", "num_layers"),
    "model.encoder.layers": ("encoder_layers", "encoder.num_hidden_layers"),
    "model.decoder.layers": ("decoder_layers", "decoder.num_hidden_layers", "num_hidden_layers"),
    "distilbert.transformer.layer": ("n_layers", "num_hidden_layers"),
}
LAYERS = tuple(dict.fromkeys(field.rpartition(".")[2] for fields in LAYER_COUNTS.values() for field in fields))
SIZES = (
    *("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "vocab_size"),
    *("intermediate_size", "n_inner", "d_ff", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
    *("moe_intermediate_size", "head_dim", "d_kv", "num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "n_positions"),
)
TOKENS = ("pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "sep_token_id")
ENDS = ("eos_token_id", "forced_eos_token_id")
DTYPE_FIELDS = ("dtype", "torch_dtype")
# Weights in float8 are dequantised, whatever this field says.
DTYPES = frozenset({"float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"})
ACTIVATION_FIELDS = ("hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn")
ACTIVATIONS = frozenset(
    (
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
        *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
        *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
    )
)
ROPE_FIELDS = ("rope_scaling", "rope_parameters")
# The last two are names of older files, which transformers reads as `longrope` and `default`.
ROPES = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su", "mrope"})


class Rule(NamedTuple):
    """Which values some fields may have, and these in words."""

    fields: tuple[str, ...]
    holds: Callable[[Any], bool]
    words: str


def _from_1_to(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 < value <= most


def _is_token(value: Any) -> bool:
    return type(value) is int


def _is_end(value: Any) -> bool:
    return _is_token(value) or (isinstance(value, list) and all(map(_is_token, value)))


def _one_of(names: frozenset[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


RULES = (
    Rule(LAYERS, _from_1_to(MAX_LAYERS), f"a whole number from 1 to {MAX_LAYERS}"),
    Rule(SIZES, _from_1_to(MAX_SIZE), f"a whole number from 1 to {MAX_SIZE}"),
    Rule(TOKENS, _is_token, "the id of a token"),
    Rule(ENDS, _is_end, "the id of a token, or a list of ids"),
    Rule(DTYPE_FIELDS, _one_of(DTYPES), f"one of {', '.join(sorted(DTYPES))}"),
    Rule(ACTIVATION_FIELDS, _one_of(ACTIVATIONS), "an activation function of transformers"),
)


def check_values(config: Mapping[str, Any], file: str = "config.json") -> None:
    """Raise InvalidModel for the first field whose value no class of transformers can have; messages name the file."""
    for rule in RULES:
        for field in rule.fields:
            value = config.get(field)
            if value is not None and not rule.holds(value):
                raise InvalidModel(f"{file} has {value!r:.100} in {field!r}: give {rule.words}", param="model.uri")
    for field in ROPE_FIELDS:
        _check_rope(config.get(field), field, file)
    classes = config.get("id2label")
    if classes is not None and not (isinstance(classes, dict) and all(str(index).isdecimal() for index in classes)):
        raise InvalidModel(f"{file} has an 'id2label' whose keys are not the numbers of classes", param="model.uri")


def check_generation_config(content: Mapping[str, Any]) -> None:
    """Raise InvalidModel for a generation_config.json with tokens that no model can have."""
    tokens = {field: content.get(field) for field in (*TOKENS, *ENDS)}
    check_values(tokens, "generation_config.json")


def _check_rope(rope: Any, field: str, file: str) -> None:
    """Check the kind of a scaling of positions; some families have one for each kind of layer."""
    if rope is None:
        return
    if not isinstance(rope, dict):
        raise InvalidModel(f"{file} has {rope!r:.100} in {field!r}: give an object", param="model.uri")
    for kind in (rope.get("rope_type"), rope.get("type")):
        if kind is not None and not (isinstance(kind, str) and kind in ROPES):
            message = f"{file} has the rope_type {kind!r:.100} in {field!r}: give one of {', '.join(sorted(ROPES))}"
            raise InvalidModel(message, param="model.uri")
    for part in rope.values():
        if isinstance(part, dict):
            _check_rope(part, field, file)
