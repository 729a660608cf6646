"""The config of a GGUF file: what transformers reads of its metadata, corrected and completed.

transformers maps some metadata keys to the config and passes over the others without a word: scalings of rotary
positions, sizes of heads, soft caps. Here every key of the architecture and every tensor is accounted for, or the file
is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, TensorNameMap, get_tensor_name_map
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from service.models.families.runtimes.layer_patterns import LAYERS_OF_27B, PATTERNS

# Keys that transformers maps itself, or that repeat what tensors show.
MAPPED = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "rope.freq_base",
    "rope.scaling.finetuned",  # how a model was trained, and how its file was made: neither changes what it computes
    "tensor_data_layout",
)
EMBEDDING = "token_embd.weight"
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (FREQUENCIES, LONG, SHORT)
# Llama 3 scales by these; the file holds the resulting factors, and of these numbers none.
LOW, HIGH = 1.0, 4.0
ORIGINAL_LENGTHS = [8192, *(2**power for power in range(4, 21) if power != 13)]
EXACT = 1e-5  # relative; float32 holds seven digits


@dataclass
class Metadata:
    """The metadata of the architecture, and the tensors that hold factors of rotary frequencies.

    `take` gives the value of a key and counts it as used.
    """

    name: str  # of the file
    family: str
    values: dict[str, Any]
    factors: dict[str, Tensor]
    rows: int  # of the embedding

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key without the name of the architecture."""
        return self.values.pop(key, default)

    def refuse(self, what: str) -> InvalidModel:
        """The error for a file that says what the checkpoint could not hold."""
        message = f"{self.name} has {what}, which cannot be restored exactly: give the checkpoint it was made from"
        return InvalidModel(message, param="model.uri")


def read_metadata(reader: GGUFReader, name: str, family: str) -> Metadata:
    """The metadata of a file of a supported architecture."""
    prefix = f"{reader.fields['general.architecture'].contents()}."
    fields = {key.removeprefix(prefix): field for key, field in reader.fields.items() if key.startswith(prefix)}
    values = {key: field.contents() for key, field in fields.items()}
    factors = {each.name: torch.tensor(each.data).float() for each in reader.tensors if each.name in ROPE_TENSORS}
    rows = next((int(each.shape[1]) for each in reader.tensors if each.name == EMBEDDING), 0)
    return Metadata(name, family, values, factors, rows)


def complete_config(config: Any, metadata: Metadata) -> None:
    """Set the fields of the config that transformers has not read. Raises InvalidModel for what it cannot hold."""
    found = {key: metadata.values[key] for key in MAPPED if key in metadata.values}
    for key in MAPPED:
        metadata.take(key)
    config.vocab_size = metadata.rows
    if metadata.family == "gpt2":
        config.n_positions, config.n_inner = found["context_length"], found["feed_forward_length"]
    else:
        _complete_attention(config, metadata, found)
        rope = _rope(config, metadata)
        if metadata.family in PATTERNS:
            _complete_gemma(config, metadata, rope)
        else:
            config.rope_parameters = rope
    if metadata.take("attention.causal", True) is not True:
        raise metadata.refuse("attention in both directions")
    for key, value in metadata.values.items():
        if value not in (0, False):  # such as no experts
            raise metadata.refuse(f"the metadata {key} = {value}")
    for tensor in metadata.factors:
        raise metadata.refuse(f"the tensor {tensor}")


def _complete_attention(config: Any, metadata: Metadata, found: Mapping[str, Any]) -> None:
    default = found["embedding_length"] // found["attention.head_count"]
    size = metadata.take("attention.key_length", default)
    if metadata.take("attention.value_length", size) != size:
        raise metadata.refuse("heads whose keys and values differ in size")
    config.head_dim = size
    window = metadata.take("attention.sliding_window")
    if window is not None and metadata.family in ("phi3", *PATTERNS):
        config.update({"sliding_window": window})


def _rope(config: Any, metadata: Metadata) -> dict[str, Any]:
    """The parameters of rotary positions."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(config_theta(config))}
    rotary = metadata.take("rope.dimension_count", config.head_dim)
    if metadata.family == "phi3":
        rope["partial_rotary_factor"] = rotary / config.head_dim
    elif rotary != config.head_dim:
        raise metadata.refuse(f"rotary positions in {rotary} of the {config.head_dim} dimensions of a head")
    original = metadata.take("rope.scaling.original_context_length", config.max_position_embeddings)
    if LONG in metadata.factors and metadata.family == "phi3":
        return rope | _long_rope(config, metadata, original)
    kind, factor = metadata.take("rope.scaling.type", "none"), metadata.take("rope.scaling.factor")
    factor = 1 / metadata.take("rope.scale_linear") if "rope.scale_linear" in metadata.values else factor
    if kind == "yarn":
        return rope | {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if kind not in ("none", "linear"):
        raise metadata.refuse(f"rotary positions of the type {kind}")
    if FREQUENCIES in metadata.factors:
        return rope | _llama3(rope["rope_theta"], config.head_dim, metadata)
    return rope | {"rope_type": "linear", "factor": float(factor)} if factor not in (None, 0, 1) else rope


def config_theta(config: Any) -> float:
    """The base of the rotary frequencies that transformers has read."""
    rope: Mapping[str, Any] = config.rope_parameters
    return float(rope.get("full_attention", rope)["rope_theta"])


def _long_rope(config: Any, metadata: Metadata, original: int) -> dict[str, Any]:
    """Phi 3 with two lists of factors, for texts up to its first length and for longer ones."""
    if SHORT not in metadata.factors:
        raise metadata.refuse(f"the tensor {LONG} without {SHORT}")
    long, short = (metadata.factors.pop(name).tolist() for name in (LONG, SHORT))
    attention = metadata.take("rope.scaling.attn_factor")
    config.update({"original_max_position_embeddings": original})
    rope: dict[str, Any] = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    rope["original_max_position_embeddings"] = original
    return rope if attention is None else rope | {"attention_factor": float(attention)}


def _llama3(theta: float, size: int, metadata: Metadata) -> dict[str, Any]:
    """The scaling of Llama 3 whose factors the file holds. Raises InvalidModel where there is none."""
    factors = metadata.factors.pop(FREQUENCIES)
    if torch.equal(factors, torch.ones_like(factors)):
        return {}
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": LOW, "high_freq_factor": HIGH}
    for original in ORIGINAL_LENGTHS:
        expected = llama3_factors(theta, size, float(factors.max()), original)
        if expected.shape == factors.shape and torch.allclose(expected, factors, rtol=EXACT, atol=0):
            return scaling | {"original_max_position_embeddings": original}
    raise metadata.refuse(f"factors in {FREQUENCIES} that are not those of Llama 3")


def llama3_factors(theta: float, size: int, factor: float, original: int) -> Tensor:
    """By what Llama 3 divides each rotary frequency; `original` is the length of the texts before it was scaled."""
    wavelength = 2 * torch.pi * theta ** (torch.arange(0, size, 2).double() / size)
    smooth = (original / wavelength - LOW) / (HIGH - LOW)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelength > original / LOW, torch.full_like(wavelength, factor), between)
    return torch.where(wavelength < original / HIGH, torch.ones_like(wavelength), factors).float()


def _complete_gemma(config: Any, metadata: Metadata, rope: dict[str, Any]) -> None:
    layers = config.num_hidden_layers
    is_27b = layers == LAYERS_OF_27B[metadata.family]
    # Files do not hold it; llama.cpp computes it so.
    scalar = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
    config.update({"query_pre_attn_scalar": scalar})
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        setattr(config, key, metadata.take(key, getattr(config, key)))
    pattern = metadata.take("attention.sliding_window_pattern", PATTERNS[metadata.family])
    slides = pattern if isinstance(pattern, list) else [(layer + 1) % pattern != 0 for layer in range(layers)]
    config.update({"layer_types": ["sliding_attention" if each else "full_attention" for each in slides]})
    local = float(metadata.take("rope.freq_base_swa", 10_000.0))
    if metadata.family == "gemma2":
        config.rope_parameters = rope
    else:
        short = {"rope_type": "default", "rope_theta": local}
        config.rope_parameters = {"full_attention": rope, "sliding_attention": short}


def check_tensors(reader: GGUFReader, model: PreTrainedModel, metadata: Metadata) -> None:
    """Raise InvalidModel for a tensor of the file that is no parameter of the model."""
    architecture = reader.fields["general.architecture"].contents()
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    used = {*ROPE_TENSORS, *(_stored_name(name, names) for name in model.state_dict())}
    for tensor in reader.tensors:
        if tensor.name not in used:
            raise metadata.refuse(f"the tensor {tensor.name}")


def _stored_name(parameter: str, names: TensorNameMap) -> str:
    """The name that a GGUF file gives to a parameter of transformers."""
    stem, _, suffix = parameter.rpartition(".")
    return f"{names.get_name(stem)}.{suffix}"
