"""Writes the ONNX files of a checkpoint and compares them in onnxruntime with the probe of the checkpoint.

`python -m worker.exports.onnx.process PARENT` is a process of its own, whose memory the job gets back and which the job
can end. It is given CHECKPOINT, PROBE and DIRECTORY, and prints one line of JSON, an `OnnxFiles`.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

from service.infrastructure.child_process import die_with_parent
from service.models.families.family import ModelFamily
from service.models.families.table import family_of
from service.sources.model_files import CONFIG
from worker.checkpoints.encoders import is_encoder, sentence_encoder_of
from worker.checkpoints.fresh_process import read_arguments
from worker.checkpoints.verification import Probe
from worker.checkpoints.weights import load_weights
from worker.exports.onnx.check import greatest_difference
from worker.exports.onnx.files import OnnxFiles
from worker.exports.onnx.graphs import (
    Graph,
    decoder_graph,
    encoder_decoder_graphs,
    encoder_graph,
    head_size,
    key_value_heads,
)


def write(checkpoint: Path, probe: Probe, directory: Path) -> OnnxFiles:
    """Write the files of a checkpoint and compare them. Raises InvalidModel, and what the exporter of torch raises."""
    family = family_of(json.loads((checkpoint / CONFIG).read_bytes()), "the checkpoint")
    model = load_weights(checkpoint, family)
    model.float().eval()
    is_decoder, graphs = family.kind == "causal", _graphs(model, family, checkpoint)
    with torch.no_grad():
        for graph in graphs:
            graph.write(directory)
    return OnnxFiles(
        names=[graph.file for graph in graphs],
        difference=greatest_difference(directory, graphs, probe),
        largest=probe.logits.abs().max().item(),
        key_value_heads=key_value_heads(model.config) if is_decoder else [],
        head_size=head_size(model.config) if is_decoder else 0,
    )


def _graphs(model: PreTrainedModel, family: ModelFamily, checkpoint: Path) -> list[Graph]:
    if family.kind == "causal":
        return [decoder_graph(model)]
    if family.kind == "encoder_decoder":
        return encoder_decoder_graphs(model)
    return [encoder_graph(model, sentence_encoder_of(checkpoint) if is_encoder(model) else None)]


def main() -> None:
    """Write and compare what the process is given; print an `OnnxFiles` as JSON."""
    [parent] = sys.argv[1:]
    die_with_parent(int(parent))
    checkpoint, probe, directory = read_arguments()
    sys.stdout.write(write(Path(checkpoint), Probe.read(Path(probe)), Path(directory)).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
