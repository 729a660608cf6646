"""Computes a GGUF file with llama.cpp, in a process of its own: a file that llama.cpp rejects may end the process.

The package `cyllama` has llama.cpp. `python -m worker.exports.llama_cpp PARENT FILE QUESTIONS ANSWERS`, the process,
reads tokens and texts from QUESTIONS and writes logits and tokens to ANSWERS.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contract.errors import ExportFailed
from service.infrastructure.child_process import die_with_parent
from worker.checkpoints.verification import wait_for
from worker.exports.questions import Questions
from worker.exports.source import ExportSource

PACKAGE = "cyllama"
BINDINGS = "cyllama.llama.llama_cpp"
F32 = 0  # ggml's number of the type, for keys and values


@dataclass(frozen=True)
class Answers:
    """What llama.cpp makes of the questions: the logits of each row (T, V), and the tokens of each text."""

    logits: list[Tensor]
    tokens: list[list[int]]
    framed: list[list[int]]  # with the special tokens that the file says


def has_llama_cpp() -> bool:
    """Whether this installation has llama.cpp."""
    return importlib.util.find_spec(PACKAGE) is not None


def described() -> str:
    """The llama.cpp of this installation, in words."""
    return f"llama.cpp (cyllama {version(PACKAGE)})"


def ask(source: ExportSource, path: Path, questions: Questions) -> Answers:
    """The answers of a file in a fresh process. Raises ExportFailed where llama.cpp does not load it."""
    asked, answered = source.scratch / "questions.safetensors", source.scratch / "answers.safetensors"
    save_file(_numbered(questions.tokens), asked, {"texts": json.dumps(questions.texts)})
    command = [sys.executable, "-m", __name__, str(os.getpid()), str(path), str(asked), str(answered)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, source.while_waiting)
    if process.returncode != 0:
        lines = [line for line in errors.splitlines() if "error" in line.lower()] or errors.splitlines() or [""]
        raise ExportFailed(f"llama.cpp does not load {path.name}: {lines[-1].strip()}")
    with Path(f"{answered}.json").open(encoding="utf-8") as file:
        tokens = json.load(file)
    logits = load_file(answered)
    return Answers([logits[str(row)] for row in range(len(questions.tokens))], **tokens)


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(row): tensor for row, tensor in enumerate(tensors)}


def _answer(path: Path, asked: Path, answered: Path) -> None:
    bindings: Any = importlib.import_module(BINDINGS)
    rows = load_file(asked)
    model = _model(bindings, path)
    vocabulary = model.get_vocab()
    logits = {row: _logits(bindings, model, tokens) for row, tokens in rows.items()}
    save_file(logits, answered)
    texts = _texts(asked)
    found = {
        "tokens": [list(vocabulary.tokenize(text, False, False)) for text in texts],
        "framed": [list(vocabulary.tokenize(text, True, False)) for text in texts],
    }
    Path(f"{answered}.json").write_text(json.dumps(found), encoding="utf-8")


def _texts(asked: Path) -> list[str]:
    with safe_open(asked, framework="pt") as file:
        found: list[str] = json.loads(file.metadata()["texts"])
    return found


def _model(bindings: Any, path: Path) -> Any:
    """The model. The bindings have to be told the size of the vocabulary to give the logits of a context."""
    parameters = bindings.LlamaModelParams()
    parameters.n_gpu_layers, parameters.use_mmap = 0, True
    size = bindings.LlamaModel(str(path), parameters, False).get_vocab().n_vocab
    return type("Model", (bindings.LlamaModel,), {"n_vocab": size})(str(path), parameters, False)


def _logits(bindings: Any, model: Any, tokens: Tensor) -> Tensor:
    """The logits of a row of tokens (T, V), with keys and values in float32."""
    count = len(tokens)
    settings = bindings.LlamaContextParams()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(64, count)
    settings.n_threads = settings.n_threads_batch = max(1, torch.get_num_threads())
    settings.type_k, settings.type_v, settings.flash_attn_type = F32, F32, 0
    context = bindings.LlamaContext(model, settings, False)
    batch = bindings.LlamaBatch(n_tokens=count, embd=0, n_seq_max=1)
    for position, token in enumerate(tokens.tolist()):
        batch.add(token, position, [0], True)
    context.decode(batch)
    return torch.stack([torch.tensor(context.get_logits_ith(position)) for position in range(count)])


def main() -> None:
    """Answer the questions that the command line names."""
    parent, path, asked, answered = sys.argv[1:]
    die_with_parent(int(parent))
    _answer(Path(path), Path(asked), Path(answered))


if __name__ == "__main__":
    main()
