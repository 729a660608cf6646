"""Has the ONNX files of a checkpoint written and compared in a process of its own.

The packages of ONNX are imported in that process alone: an installation of the worker may lack them.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from service.contract.errors import ExportFailed, VerificationFailed
from worker.checkpoints.fresh_process import FreshProcess

MODULE = "worker.exports.onnx.process"
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}  # onnxruntime would report its use to its maker


class OnnxFiles(BaseModel):
    """What the process tells the job."""

    names: list[str]
    difference: float  # the greatest
    largest: float  # of the numbers that were compared
    key_value_heads: list[int]  # of each layer of a decoder, else none
    head_size: int


def write_files(checkpoint: Path, probe: Path, directory: Path, while_waiting: Callable[[], None]) -> OnnxFiles:
    """Write the files of a checkpoint into a directory and compare them with its probe. Raises ExportFailed."""
    arguments = [str(checkpoint), str(probe), str(directory)]
    failure = "the ONNX file cannot be written and run"
    try:
        with FreshProcess(MODULE, QUIET) as process:
            return OnnxFiles.model_validate_json(process.last_line(arguments, while_waiting, failure))
    except VerificationFailed as error:
        raise ExportFailed(error.message) from error
