"""Writes tiny models as GGUF files, as llama.cpp's converter does, with more metadata where a test asks for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH_NAMES, GGUFWriter, TokenType, get_tensor_name_map
from torch import Tensor
from transformers import PreTrainedModel

from service.models.families.table import FAMILIES
from tests.support.checkpoints import tokenizer


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a decoder with float32 weights. `metadata` without the name of the architecture, and `tensors`, are added
    to what every file of the family has."""
    architecture, config = FAMILIES[model.config.model_type].gguf, model.config
    writer = GGUFWriter(path, architecture)
    for key, value in (_sizes(config) | dict(metadata or {})).items():
        _add(writer, f"{architecture}.{key}", value)
    _add_tokenizer(writer, config.vocab_size)
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", _stored(name, tensor, config))
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _sizes(config: Any) -> dict[str, Any]:
    if config.model_type == "gpt2":
        sizes = {"context_length": config.n_positions, "feed_forward_length": config.n_inner}
        return sizes | {
            "embedding_length": config.n_embd,
            "block_count": config.n_layer,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
    }


def _stored(name: str, tensor: Tensor, config: Any) -> npt.NDArray[np.float32]:
    """The tensor as a file holds it: rows of queries and keys in pairs for Llama, the norms of Gemma plus one."""
    array: npt.NDArray[np.float32] = tensor.float().numpy()
    if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    if config.model_type in ("gemma2", "gemma3_text") and name.endswith("norm.weight"):
        return array + 1
    is_transposed = name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))
    return np.ascontiguousarray(array.T) if is_transposed else array


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)


def _add_tokenizer(writer: GGUFWriter, size: int) -> None:
    model = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = [TokenType.CONTROL if token.startswith("<") else TokenType.NORMAL for token in tokens]
    unused = [f"[PAD{number}]" for number in range(len(tokens), size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + unused)
    writer.add_token_types(kinds + [TokenType.UNUSED] * len(unused))
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
