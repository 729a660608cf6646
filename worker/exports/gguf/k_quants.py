"""K-quants: GGUF types with scales of scales, which llama.cpp's own quantiser writes.

It is `llama-quantize` where the worker finds it, else that of the package `cyllama`.
"""

import shutil
import subprocess
from pathlib import Path

from service.contract.errors import ExportFailed
from service.contract.options import GgufType
from worker.checkpoints.fresh_process import wait_for
from worker.exports.gguf.llama_cpp import call, complaint, has_llama_cpp
from worker.exports.source import ExportSource

QUANTISER = "llama-quantize"


def can_quantise() -> bool:
    """Whether this worker has a quantiser."""
    return shutil.which(QUANTISER) is not None or has_llama_cpp()


def quantise(source: ExportSource, exact: Path, path: Path, kind: GgufType) -> None:
    """Write a file with K-quants of the weights of a float32 file. Raises ExportFailed."""
    found = shutil.which(QUANTISER)
    if found is None:
        call("quantise", [exact, path, kind], source.while_waiting)
    else:
        _run([found, str(exact), str(path), kind.upper()], source)
    if not path.exists():
        raise ExportFailed(f"llama.cpp has written no file with {kind} weights")


def _run(command: list[str], source: ExportSource) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, source.while_waiting)
    if process.returncode != 0:
        raise ExportFailed(f"{QUANTISER} fails: {complaint(errors)}")
