"""The process that runs llama.cpp: a file that llama.cpp rejects may end it. It imports neither torch nor transformers.

`python -m worker.exports.gguf.llama_cpp_process PARENT answer FILE QUESTIONS ANSWERS` reads tokens and texts from
QUESTIONS and writes the logits and the tokens to ANSWERS. `... PARENT quantise FROM TO TYPE` writes a file with
K-quants. `... PARENT rate FILE TOKENS` prints how many tokens a second the file writes.

Shape suffixes: T positions, V vocabulary.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import LlamaFileType
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from service.infrastructure.child_process import die_with_parent

BINDINGS = "cyllama.llama.llama_cpp"
F32 = 0  # ggml's number of the type, for keys and values
LEAST_CONTEXT = 64
TEXTS = "texts"  # in the metadata of the questions
FILE_TYPES = {
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}


def answer(path: str, asked: str, answered: str) -> None:
    """Write the logits of rows of tokens, and the tokens of texts with and without special ones."""
    bindings: Any = importlib.import_module(BINDINGS)
    model = _model(bindings, path)
    logits = {row: _logits_TV(bindings, model, token_T) for row, token_T in load_file(asked).items()}
    save_file(logits, answered)
    with safe_open(asked, framework="np") as file:
        texts: list[str] = json.loads(file.metadata()[TEXTS])
    split = model.get_vocab().tokenize
    found = {
        "tokens": [list(split(text, False, False)) for text in texts],
        "framed": [list(split(text, True, False)) for text in texts],
    }
    Path(f"{answered}.json").write_text(json.dumps(found), encoding="utf-8")


def quantise(exact: str, path: str, kind: str) -> None:
    """Write a file with K-quants of the weights of a float32 file."""
    bindings: Any = importlib.import_module(BINDINGS)
    bindings.model_quantize(exact, path, _with(bindings.LlamaModelQuantizeParams(), ftype=int(FILE_TYPES[kind])))


def rate(path: str, tokens: str) -> None:
    """Print the tokens a second of writing this many tokens one at a time, with a cache.

    One thread: the threads of llama.cpp wait for each other, which on a busy machine measures little else.
    """
    bindings: Any = importlib.import_module(BINDINGS)
    model, count = _model(bindings, path), int(tokens)
    settings = _with(bindings.LlamaContextParams(), n_ctx=max(LEAST_CONTEXT, count + 1), n_threads=1)
    context, token, start = bindings.LlamaContext(model, settings, False), 0, 0.0
    for position in range(count + 1):
        if position == 1:  # the first token is a warm-up
            start = time.perf_counter()
        batch = bindings.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.add(token, position, [0], True)
        context.decode(batch)
        token = int(np.argmax(context.get_logits_ith(0)))
    sys.stdout.write(f"{count / (time.perf_counter() - start)}\n")


def _with(parameters: Any, **values: int) -> Any:
    """The parameters of the bindings with these values."""
    for name, value in values.items():
        setattr(parameters, name, value)
    return parameters


def _model(bindings: Any, path: str) -> Any:
    """The model. The bindings have to be told the size of the vocabulary to give the logits of a context."""
    parameters = _with(bindings.LlamaModelParams(), n_gpu_layers=0)
    size = bindings.LlamaModel(path, parameters, False).get_vocab().n_vocab
    return type("Model", (bindings.LlamaModel,), {"n_vocab": size})(path, parameters, False)


def _logits_TV(bindings: Any, model: Any, token_T: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The logits of a row of tokens, with keys and values in float32."""
    count = len(token_T)
    sizes = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), max(LEAST_CONTEXT, count))
    settings = _with(bindings.LlamaContextParams(), **sizes, type_k=F32, type_v=F32, flash_attn_type=0)
    context = bindings.LlamaContext(model, settings, False)
    batch = bindings.LlamaBatch(n_tokens=count, embd=0, n_seq_max=1)
    for position, token in enumerate(token_T.tolist()):
        batch.add(token, position, [0], True)
    context.decode(batch)
    return np.array([context.get_logits_ith(position) for position in range(count)], dtype=np.float32)


ACTIONS: dict[str, Callable[..., None]] = {"answer": answer, "quantise": quantise, "rate": rate}


def main() -> None:
    """Do what the command line names."""
    parent, action, *arguments = sys.argv[1:]
    die_with_parent(int(parent))
    ACTIONS[action](*arguments)


if __name__ == "__main__":
    main()
