"""Writes an ONNX file of a checkpoint and compares it in onnxruntime with the probe of the checkpoint.

`python -m worker.exports.onnx_process PARENT CHECKPOINT PROBE FILE` is a process of its own, whose memory the job gets
back and which the job can end. It prints one line of JSON, an `OnnxFile`.
"""

import json
import sys
from pathlib import Path

import torch
from pydantic import BaseModel

from service.families.table import family_of
from service.infrastructure.child_process import die_with_parent
from service.sources.model_files import CONFIG
from worker.checkpoints.encoders import is_encoder, sentence_encoder_of
from worker.checkpoints.verification import Probe
from worker.checkpoints.weights import load_weights
from worker.exports.onnx_check import greatest_difference
from worker.exports.onnx_graphs import Graph, decoder_graph, encoder_graph, head_size, key_value_heads


class OnnxFile(BaseModel):
    """What the process tells the job."""

    difference: float  # the greatest
    largest: float  # of the numbers that were compared
    key_value_heads: list[int]  # of each layer of a decoder, else none
    head_size: int


def write(checkpoint: Path, probe: Probe, path: Path) -> OnnxFile:
    """Write the file of a checkpoint and compare it. Raises InvalidModel, and what the exporter of torch raises."""
    config = json.loads((checkpoint / CONFIG).read_bytes())
    family = family_of(config, "the checkpoint")
    model = load_weights(checkpoint, family)
    model.float().eval()
    is_decoder = family.kind == "causal"
    encoder = sentence_encoder_of(checkpoint) if is_encoder(model) else None
    graph: Graph = decoder_graph(model) if is_decoder else encoder_graph(model, encoder)
    with torch.no_grad():
        graph.write(path)
    return OnnxFile(
        difference=greatest_difference(path, graph, probe),
        largest=probe.logits.abs().max().item(),
        key_value_heads=key_value_heads(model.config) if is_decoder else [],
        head_size=head_size(model.config) if is_decoder else 0,
    )


def main() -> None:
    """Write and compare what the command line names; print an `OnnxFile` as JSON."""
    parent, checkpoint, probe, path = sys.argv[1:]
    die_with_parent(int(parent))
    sys.stdout.write(write(Path(checkpoint), Probe.read(Path(probe)), Path(path)).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
