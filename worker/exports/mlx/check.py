"""Whether a checkpoint for mlx-lm computes what the slim model computes.

With mlx-lm at hand it answers, in a process of its own. Otherwise the files are read back in another way than they were
written.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contract.errors import ExportFailed
from service.sources.model_files import CONFIG, SINGLE
from worker.checkpoints.fresh_process import wait_for
from worker.exports.checkpoint_logits import checkpoint_logits
from worker.exports.gguf import decoder_reference
from worker.exports.gguf.check import TOLERANCE, Checked
from worker.exports.gguf.llama_cpp import complaint
from worker.exports.questions import Questions
from worker.exports.source import ExportSource

PACKAGES = ("mlx_lm", "mlx")
PROCESS = "worker.exports.mlx.process"
BUT = "this worker has no mlx-lm"


def has_mlx_lm() -> bool:
    """Whether this installation has mlx-lm."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def check(source: ExportSource, directory: Path, questions: Questions) -> Checked:
    """How far the logits of the checkpoint are, and by what they were computed. Raises ExportFailed."""
    tolerance = TOLERANCE * questions.greatest
    if has_mlx_lm():
        found = _by_mlx_lm(source, directory, questions)
        return Checked(f"mlx-lm {version('mlx-lm')}", questions.difference(found), tolerance)
    if not source.own_widths:
        found = checkpoint_logits(directory, questions.tokens, source.scratch, source.while_waiting)
        return Checked(f"transformers, as the checkpoint itself; {BUT}", questions.difference(found), tolerance)
    file = OpenElm(directory)
    found = [decoder_reference.logits(file, tokens) for tokens in questions.tokens]
    return Checked(f"Taskslim's own reading of the files; {BUT}", questions.difference(found), tolerance)


def _by_mlx_lm(source: ExportSource, directory: Path, questions: Questions) -> list[Tensor]:
    asked, answered = source.scratch / "questions.safetensors", source.scratch / "answers.safetensors"
    rows = {str(number): row for number, row in enumerate(questions.tokens)}
    save_file(rows, asked)
    command = [sys.executable, "-m", PROCESS, *map(str, (os.getpid(), directory, asked, answered))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, source.while_waiting)
    if process.returncode != 0:
        raise ExportFailed(f"mlx-lm does not load the checkpoint: {complaint(errors)}")
    logits = load_file(answered)
    return [logits[number] for number in rows]


@dataclass(frozen=True)
class Sizes:
    """Names of the metadata in config.json of an OpenELM."""

    one: Mapping[str, str]
    each: Mapping[str, str]


NAMES = Sizes(
    one={
        "block_count": "num_transformer_layers",
        "attention.key_length": "head_dim",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "rope.freq_base": "rope_freq_constant",
    },
    each={"attention.head_count": "num_query_heads", "attention.head_count_kv": "num_kv_heads"},
)
TENSORS = {
    "token_embd.weight": "transformer.token_embeddings.weight",
    "output_norm.weight": "transformer.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "attn_qkv.weight": "attn.qkv_proj.weight",
    "attn_q_norm.weight": "attn.q_norm.weight",
    "attn_k_norm.weight": "attn.k_norm.weight",
    "attn_output.weight": "attn.out_proj.weight",
    "ffn_down.weight": "ffn.proj_2.weight",
}


class OpenElm:
    """The checkpoint of an OpenELM, as the reference reads a file."""

    turns_halves = True

    def __init__(self, directory: Path) -> None:
        self._config: dict[str, Any] = json.loads((directory / CONFIG).read_bytes())
        self._tensors = {name: tensor.float() for name, tensor in load_file(directory / SINGLE).items()}

    def number(self, key: str, layer: int | None = None) -> Any:
        """A number of the config, that of a layer where each has its own; None where there is none."""
        if key in NAMES.each and layer is not None:
            return self._config[NAMES.each[key]][layer]
        return self._config[NAMES.one[key]] if key in NAMES.one else None

    def tensor(self, name: str) -> Tensor | None:
        """A tensor in float32; None where there is none."""
        return self._tensors.get(TENSORS.get(name, name))

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a layer by their names in it."""
        start = f"transformer.layers.{index}."
        found = {name: self._tensors.get(f"{start}{theirs}") for name, theirs in LAYER_TENSORS.items()}
        gate, up = self._tensors[f"{start}ffn.proj_1.weight"].chunk(2)
        return {name: tensor for name, tensor in found.items() if tensor is not None} | {
            "ffn_gate.weight": gate,
            "ffn_up.weight": up,
        }
