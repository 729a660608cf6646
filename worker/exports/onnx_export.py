"""ONNX: writes the graph of a slim model with what onnxruntime needs beside it, and compares it in onnxruntime."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from service.contract.errors import ExportFailed, VerificationFailed
from service.contract.options import Format
from service.contract.result import Export, ExportedFile
from service.sources.model_files import CONFIG
from worker.checkpoints.fresh_process import last_line_of
from worker.checkpoints.verification import TOLERANCE
from worker.exports.onnx_genai import genai_config
from worker.exports.onnx_process import OnnxFile
from worker.exports.source import ExportSource

FILE = "model.onnx"
GENAI_CONFIG = "genai_config.json"
MODULE = "worker.exports.onnx_process"


def export(source: ExportSource, directory: Path) -> Export:
    """Write the file, in float32, with tokenizer and configs. Raises ExportFailed."""
    path = directory / FILE
    found = _written(source, path)
    tolerance = TOLERANCE * found.largest
    if not (math.isfinite(found.difference) and found.difference <= tolerance):
        raise ExportFailed(
            f"the outputs of the ONNX file differ by {found.difference:.3g}, more than the tolerance of {tolerance:.3g}"
        )
    source.tokenizer.save_pretrained(directory)
    shutil.copyfile(source.checkpoint / CONFIG, directory / CONFIG)
    if found.key_value_heads:
        _write_json(directory / GENAI_CONFIG, genai_config(source, found))
    size = sum(each.stat().st_size for each in directory.glob(f"{FILE}*"))
    name = f"{directory.name}/{FILE}"
    return Export(
        format=Format.onnx,
        directory=directory.name,
        architecture="decoder with a cache" if found.key_value_heads else "encoder",
        files=[ExportedFile(name=name, bytes=size, dtype="float32", max_abs_logit_difference=found.difference)],
        bytes=size,
        checked_by="onnxruntime",
        max_abs_logit_difference=found.difference,
        tolerance=tolerance,
        command=_command(directory, found),
    )


def _written(source: ExportSource, path: Path) -> OnnxFile:
    arguments = [str(source.checkpoint), str(source.probe), str(path)]
    failure = "the ONNX file cannot be written and run"
    try:
        return OnnxFile.model_validate_json(last_line_of(MODULE, arguments, source.while_waiting, failure))
    except VerificationFailed as error:
        raise ExportFailed(error.message) from error


def _command(directory: Path, found: OnnxFile) -> str:
    """A command that loads the file."""
    if found.key_value_heads:
        return f"python -c \"import onnxruntime_genai as og; og.Model('{directory.name}')\""
    return f"python -c \"import onnxruntime as ort; ort.InferenceSession('{directory.name}/{FILE}')\""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
