"""mlx: writes a checkpoint for mlx-lm and compares it with the slim model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from service.contract.answers.result import Export, ExportedFile
from service.contract.errors import ExportFailed
from service.contract.options import Format
from service.sources.model_files import CONFIG, SINGLE
from worker.exports.mlx import check as mlx_check
from worker.exports.questions import questions_of
from worker.exports.source import ExportSource
from worker.sources.validation import weight_files

# Files of a tokenizer and of the decoding, which are the same for mlx-lm.
BESIDE = ("tokenizer*", "*.jinja", "generation_config.json", "vocab.*", "merges.txt", "special_tokens_map.json")
OPENELM = "openelm"
RENAMED = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn.out_proj",
    "self_attn.q_norm": "attn.q_norm",
    "self_attn.k_norm": "attn.k_norm",
    "mlp.down_proj": "ffn.proj_2",
}
JOINED = {
    "attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "ffn.proj_1": ("mlp.gate_proj", "mlp.up_proj"),
}


def export(source: ExportSource, directory: Path) -> Export:
    """Write the checkpoint. Raises ExportFailed where it computes something else."""
    if source.own_widths:
        _write_openelm(source, directory)
    else:
        shutil.copytree(source.checkpoint, directory, dirs_exist_ok=True)
    checked = mlx_check.check(source, directory, questions_of(source))
    if not checked.difference <= checked.tolerance:
        raise ExportFailed(
            f"the logits of the checkpoint for mlx-lm differ by {checked.difference:.3g}, more than the tolerance of "
            f"{checked.tolerance:.3g}, computed by {checked.by}"
        )
    dtype = str(source.config.dtype).removeprefix("torch.")
    files = [
        ExportedFile(name=f"{directory.name}/{path.name}", bytes=path.stat().st_size, dtype=dtype)
        for path in weight_files(directory)
    ]
    return Export(
        format=Format.mlx,
        directory=directory.name,
        architecture=OPENELM if source.own_widths else source.config.model_type,
        files=files,
        bytes=sum(file.bytes for file in files),
        checked_by=checked.by,
        max_abs_logit_difference=checked.difference,
        tolerance=checked.tolerance,
        command=f"mlx_lm.server --model {directory.name}",
    )


def _write_openelm(source: ExportSource, directory: Path) -> None:
    """Write the layers with their own widths in the form of an OpenELM."""
    tensors = dict(_tensors(source))
    save_file(tensors, directory / SINGLE, {"format": "mlx"})
    shutil.copymode(source.checkpoint / CONFIG, directory / SINGLE)
    (directory / CONFIG).write_text(json.dumps(openelm_config(source), indent=2) + "\n", encoding="utf-8")
    for pattern in BESIDE:
        for path in source.checkpoint.glob(pattern):
            shutil.copyfile(path, directory / path.name)


def openelm_config(source: ExportSource) -> dict[str, Any]:
    """The config.json. The width of a layer is its multiplier times the hidden size, rounded to the divisor."""
    config, layers = source.config, source.layers
    return {
        "architectures": ["OpenELMForCausalLM"],
        "model_type": OPENELM,
        "head_dim": source.head_size,
        "num_transformer_layers": len(layers),
        "model_dim": config.hidden_size,
        "vocab_size": config.vocab_size,
        "ffn_dim_divisor": 1,
        "num_query_heads": [layer.heads for layer in layers],
        "num_kv_heads": [layer.key_value_heads for layer in layers],
        "ffn_multipliers": [layer.width / config.hidden_size for layer in layers],
        "ffn_with_glu": True,
        "normalize_qk_projections": _has_norms(source),
        "share_input_output_layers": bool(config.tie_word_embeddings),
        "rms_norm_eps": config.rms_norm_eps,
        "rope_freq_constant": config.rope_parameters["rope_theta"],
        "max_context_length": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
    }


def _has_norms(source: ExportSource) -> bool:
    return "model.layers.0.self_attn.q_norm.weight" in source.files


def _tensors(source: ExportSource) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names of an OpenELM, in the dtype of the checkpoint."""
    yield "transformer.token_embeddings.weight", _stored(source, "model.embed_tokens.weight")
    yield "transformer.norm.weight", _stored(source, "model.norm.weight")
    if not source.config.tie_word_embeddings:
        yield "lm_head.weight", _stored(source, "lm_head.weight")
    for index in range(len(source.layers)):
        theirs, ours = f"transformer.layers.{index}.", f"model.layers.{index}."
        for old, new in RENAMED.items():
            if f"{ours}{old}.weight" in source.files:
                yield f"{theirs}{new}.weight", _stored(source, f"{ours}{old}.weight")
        for new, parts in JOINED.items():
            yield f"{theirs}{new}.weight", torch.cat([_stored(source, f"{ours}{old}.weight") for old in parts])


def _stored(source: ExportSource, name: str) -> Tensor:
    with safe_open(source.files[name], framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found
