"""The formats of other runtimes: what writes and verifies the files of each.

`service.exports.formats` has the models and tokenizers that each format takes.
"""

from collections.abc import Callable
from pathlib import Path

from service.contract.answers.result import Export
from service.contract.options import Format
from worker.exports.gguf import export as gguf_export
from worker.exports.mlx import export as mlx_export
from worker.exports.onnx import export as onnx_export
from worker.exports.source import ExportSource

# Format -> a function that writes its files into a directory, compares them with the slim model and says how to use
# them. It raises ExportFailed where they differ.
EXPORTERS: dict[Format, Callable[[ExportSource, Path], Export]] = {
    Format.gguf: gguf_export.export,
    Format.onnx: onnx_export.export,
    Format.mlx: mlx_export.export,
}
