"""Compares ONNX files, run by onnxruntime, with the probe of a checkpoint.

A decoder is run twice: over the whole text, and over a part of it whose cache goes into the run over the rest.
Logits of padding are not compared, since no token sees it.

Shape suffixes: B rows, T new tokens, S tokens, J positions whose logits the probe has, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from worker.checkpoints.verification import Probe
from worker.exports.onnx.graphs import Graph

PAST = "past_key_values."


def greatest_difference(directory: Path, graphs: Sequence[Graph], probe: Probe) -> float:
    """The greatest difference between an output of the files and the probe."""
    sessions = [_session(directory / graph.file) for graph in graphs]
    if len(graphs) > 1:
        encoder, decoder = sessions
        return _of_encoder_decoder(encoder, decoder, probe)
    [graph], [session] = graphs, sessions
    if any(name.startswith(PAST) for name in graph.inputs):
        return _of_decoder(session, graph, probe)
    return _difference(_flat(_run(session, _inputs(graph, probe)), probe), probe.logits)


def _of_encoder_decoder(
    encoder: onnxruntime.InferenceSession, decoder: onnxruntime.InferenceSession, probe: Probe
) -> float:
    text = {name: probe.inputs[name] for name in ("input_ids", "attention_mask")}
    [states_BTD] = _run(encoder, text)
    encoded = {"encoder_hidden_states": states_BTD, "encoder_attention_mask": text["attention_mask"]}
    [logits] = _run(decoder, {"input_ids": probe.inputs["decoder_input_ids"]} | encoded)
    return _difference(logits, probe.logits)


def _of_decoder(session: onnxruntime.InferenceSession, graph: Graph, probe: Probe) -> float:
    inputs = _inputs(graph, probe)
    mask_BS, length = inputs["attention_mask"], inputs["input_ids"].shape[1]
    whole_BSV, *_ = _run(session, inputs | _empty(graph, len(mask_BS)))
    first = {name: tensor[:, : length // 2] for name, tensor in inputs.items()}
    first_BTV, *present = _run(session, first | _empty(graph, len(mask_BS)))
    past = dict(zip((name for name in graph.inputs if name.startswith(PAST)), present, strict=True))
    rest_BTV, *_ = _run(session, {"input_ids": inputs["input_ids"][:, length // 2 :], "attention_mask": mask_BS} | past)
    parts_BSV = torch.cat([first_BTV, rest_BTV], dim=1)
    judged = probe.inputs.get("logits_to_keep", torch.arange(length))  # the positions that the probe has logits for
    mask_BJ = mask_BS[:, judged]
    return max(_difference(found[:, judged], probe.logits, mask_BJ) for found in (whole_BSV, parts_BSV))


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _inputs(graph: Graph, probe: Probe) -> dict[str, Tensor]:
    """The inputs of the probe that the graph takes; a mask of ones and token types of zero where it has none."""
    tokens = probe.inputs["input_ids"]
    defaults = {"attention_mask": torch.ones_like(tokens), "token_type_ids": torch.zeros_like(tokens)}
    return {name: tensor for name, tensor in (defaults | probe.inputs).items() if name in graph.inputs}


def _empty(graph: Graph, rows: int) -> dict[str, Tensor]:
    """The cache before the first token."""
    return {
        name: torch.zeros(rows, example.shape[1], 0, example.shape[3])
        for name, example in graph.inputs.items()
        if name.startswith(PAST)
    }


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> list[Tensor]:
    arrays = session.run(None, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()})
    return [torch.from_numpy(array) for array in arrays]


def _flat(outputs: list[Tensor], probe: Probe) -> Tensor:
    """The outputs as the probe has them: one tensor of logits, or all outputs in one vector."""
    if probe.logits.dim() > 1:
        [logits] = outputs
        return logits
    return torch.cat([output.flatten() for output in outputs])


def _difference(found: Tensor, expected: Tensor, mask: Tensor | None = None) -> float:
    difference = (found - expected).abs()
    return float((difference if mask is None else difference[mask.bool()]).max())
