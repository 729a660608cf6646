"""Writes a GGUF file, one tensor at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize

from service.contract.options import GgufType
from worker.exports.gguf.metadata import add_sizes
from worker.exports.gguf.tensors import GgufTensor, gguf_tensors
from worker.exports.gguf.vocabulary import add_tokenizer
from worker.exports.source import ExportSource

# The types that are written here -> how the weight matrices are stored, and the type of the file as a whole.
TYPES: dict[GgufType, tuple[GGMLQuantizationType, LlamaFileType]] = {
    GgufType.f32: (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    GgufType.f16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    GgufType.bf16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    GgufType.q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def write_gguf(source: ExportSource, path: Path, architecture: str, kind: GgufType, block: int) -> None:
    """Write the checkpoint with its weight matrices in one type. Norms and biases stay in float32.

    Feed-forward widths are padded to multiples of `block`. A matrix whose rows the type does not divide into blocks is
    stored in f16.
    """
    stored, file_type = TYPES[kind]
    writer = GGUFWriter(path, architecture)
    writer.add_name(source.checkpoint.name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    add_sizes(writer, source, architecture, block)
    add_tokenizer(writer, source)
    tensors = list(gguf_tensors(source, architecture, block))
    for tensor in tensors:
        _announce(writer, tensor, _stored_as(tensor, stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    _write(writer, tensors, stored, source.while_waiting)
    writer.close()


def _stored_as(tensor: GgufTensor, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type of one tensor."""
    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    fits = tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
    return kind if fits else GGMLQuantizationType.F16


def _announce(writer: GGUFWriter, tensor: GgufTensor, kind: GGMLQuantizationType) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    elements = int(np.prod(tensor.shape))
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), elements // block * size, kind)


def _write(
    writer: GGUFWriter, tensors: list[GgufTensor], kind: GGMLQuantizationType, while_waiting: Callable[[], None]
) -> None:
    for tensor in tensors:
        writer.write_tensor_data(quantize(tensor.load().numpy(), _stored_as(tensor, kind)))
        while_waiting()
