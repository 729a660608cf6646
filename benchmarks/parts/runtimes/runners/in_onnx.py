"""Runs in the environment of onnxruntime or OpenVINO: the logits of an ONNX file.

Standard input has one JSON object for each file; `options.runtime` names the runtime. Beside the answer it writes how
many tokens a second are generated, with a cache, or read where the model has none.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

GENERATED = 32
Run = Callable[[dict[str, Any]], list[Any]]
Opened = tuple[Run, dict[str, list[int]]]  # what runs a file, and the shapes of its inputs; 0 for any length


def main() -> None:
    for line in sys.stdin.read().splitlines():
        cell = json.loads(line)
        told = {"bytes": Path(cell["model"]).stat().st_size, "tokens_per_second": answer(cell)}
        Path(cell["answer"] + ".json").write_text(json.dumps(told))


def answer(cell: dict[str, Any]) -> float:
    """Write the logits; tokens a second."""
    run, shapes = OPENED[cell["options"]["runtime"]](cell["model"])
    tokens = load_file(cell["inputs"])["input_ids"]
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    if "token_type_ids" in shapes:
        inputs["token_type_ids"] = np.zeros_like(tokens)
    past = [name for name in shapes if name.startswith("past_key_values.")]
    empty = {name: np.zeros((len(tokens), shapes[name][1], 0, shapes[name][3]), np.float32) for name in past}
    started = time.perf_counter()
    logits, *present = run(inputs | empty)
    save_file({"logits": np.ascontiguousarray(logits)}, cell["answer"])
    if not past:
        return float(tokens.size / (time.perf_counter() - started))
    started = time.perf_counter()
    for length in range(tokens.shape[1] + 1, tokens.shape[1] + 1 + GENERATED):
        chosen = {"input_ids": logits[:, -1:].argmax(-1), "attention_mask": np.ones((len(tokens), length), np.int64)}
        logits, *present = run(chosen | dict(zip(past, present, strict=True)))
    return float(len(tokens) * GENERATED / (time.perf_counter() - started))


def _in_onnxruntime(path: str) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = {each.name: [size if isinstance(size, int) else 0 for size in each.shape] for each in session.get_inputs()}
    return lambda inputs: list(session.run(None, inputs)), shapes


def _in_openvino(path: str) -> Opened:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shapes = {
        each.get_any_name(): [size.get_length() if size.is_static else 0 for size in each.get_partial_shape()]
        for each in model.inputs
    }
    return lambda inputs: [np.array(output) for output in model(inputs).values()], shapes


OPENED: dict[str, Callable[[str], Opened]] = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}


if __name__ == "__main__":
    main()
