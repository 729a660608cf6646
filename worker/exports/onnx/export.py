"""ONNX: writes the graph of a slim model with what onnxruntime needs beside it, and compares it in onnxruntime."""

import json
import math
import shutil
from pathlib import Path

from service.contract.answers.result import Export, ExportedFile
from service.contract.errors import ExportFailed
from service.contract.options import Format
from service.sources.model_files import CONFIG
from worker.checkpoints.verification import TOLERANCE
from worker.exports.onnx.files import OnnxFiles, write_files
from worker.exports.onnx.genai import genai_config
from worker.exports.source import ExportSource

GENAI_CONFIG = "genai_config.json"


def export(source: ExportSource, directory: Path) -> Export:
    """Write the files, in float32, with tokenizer and configs. Raises ExportFailed."""
    found = write_files(source.checkpoint, source.probe, directory, source.while_waiting)
    tolerance = TOLERANCE * found.largest
    if not (math.isfinite(found.difference) and found.difference <= tolerance):
        raise ExportFailed(
            f"the outputs of the ONNX file differ by {found.difference:.3g}, more than the tolerance of {tolerance:.3g}"
        )
    files = [_file(directory, name, found.difference) for name in found.names]
    source.tokenizer.save_pretrained(directory)
    shutil.copyfile(source.checkpoint / CONFIG, directory / CONFIG)
    if found.key_value_heads:
        content = genai_config(source, found)
        (directory / GENAI_CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    return Export(
        format=Format.onnx,
        directory=directory.name,
        architecture=source.config.model_type,
        files=files,
        bytes=sum(file.bytes for file in files),
        checked_by="onnxruntime",
        max_abs_logit_difference=found.difference,
        tolerance=tolerance,
        command=_command(directory, found),
    )


def _file(directory: Path, name: str, difference: float) -> ExportedFile:
    """A file, with the weights that may be beside it."""
    size = sum(path.stat().st_size for path in directory.glob(f"{name}*"))
    return ExportedFile(
        name=f"{directory.name}/{name}", bytes=size, dtype="float32", max_abs_logit_difference=difference
    )


def _command(directory: Path, found: OnnxFiles) -> str:
    """A command that loads the files."""
    if found.key_value_heads:
        return f"python -c \"import onnxruntime_genai as og; og.Model('{directory.name}')\""
    opened = "; ".join(f"ort.InferenceSession('{directory.name}/{name}')" for name in found.names)
    return f'python -c "import onnxruntime as ort; {opened}"'
