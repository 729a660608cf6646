"""Requests that are accepted, and models with the files that the API reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save

from service.api.openapi.examples import INLINE

CONFIG = {
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 8,
}
SHAPES = {
    "model.embed_tokens.weight": [8, 4],
    "model.norm.weight": [4],
    "lm_head.weight": [8, 4],
    **{f"model.layers.0.self_attn.{name}_proj.weight": [4, 4] for name in "qkvo"},
    "model.layers.0.mlp.gate_proj.weight": [256, 4],
    "model.layers.0.mlp.up_proj.weight": [256, 4],
    "model.layers.0.mlp.down_proj.weight": [4, 256],
    "model.layers.0.input_layernorm.weight": [4],
    "model.layers.0.post_attention_layernorm.weight": [4],
}

# Tasks that can be united, and one of another kind.
UNION_ROWS = {
    "rows": [{"text": "x", "label": "positive", "target": "y"}, {"text": "z", "label": "negative", "target": "y"}] * 2
}
MOOD = {"preset": "sst2", "calibration": UNION_ROWS}
FILMS = MOOD | {"preset": "imdb"}
WRITING = {"kind": "generation", "template": "{text}", "name": "writing", "calibration": UNION_ROWS}


def model_directory(directory: Path, names: tuple[str, ...] = ("model.safetensors",), **config: Any) -> str:
    """Write the files of a model that the API reads: a Llama of one layer, all zeros; the URI of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    if any(name.endswith(".safetensors") for name in names):
        (directory / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    for name in names:
        (directory / name).write_bytes(zeros(SHAPES) if name.endswith(".safetensors") else b"")
    return directory.as_uri()


def zeros(shapes: Mapping[str, list[int]]) -> bytes:
    """A safetensors file with float16 tensors of these shapes, all zeros."""
    return save({name: numpy.zeros(shape, numpy.float16) for name, shape in shapes.items()})


def request_body(directory: Path, **fields: Any) -> dict[str, Any]:
    """A request that is accepted, with `fields` in place of its own."""
    return INLINE | {"model": {"uri": model_directory(directory / "model")}} | fields


def several(tmp_path: Path, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request with several tasks in place of one."""
    body = request_body(tmp_path) | {"tasks": list(tasks)} | fields
    return {name: value for name, value in body.items() if name != "task"}
