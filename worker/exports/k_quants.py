"""K-quants: GGUF types with scales of scales, which llama.cpp's own quantiser writes.

It is `llama-quantize` where the worker finds it, else that of the package `cyllama`.
`python -m worker.exports.k_quants PARENT FROM TO TYPE` is a process that quantises with the package.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import LlamaFileType

from service.contract.errors import ExportFailed
from service.contract.options import GgufType
from service.infrastructure.child_process import die_with_parent
from worker.checkpoints.verification import wait_for
from worker.exports.llama_cpp import BINDINGS, has_llama_cpp
from worker.exports.source import ExportSource

QUANTISER = "llama-quantize"
FILE_TYPES = {
    GgufType.q6_k: LlamaFileType.MOSTLY_Q6_K,
    GgufType.q5_k_m: LlamaFileType.MOSTLY_Q5_K_M,
    GgufType.q4_k_m: LlamaFileType.MOSTLY_Q4_K_M,
}


def can_quantise() -> bool:
    """Whether this worker has a quantiser."""
    return shutil.which(QUANTISER) is not None or has_llama_cpp()


def quantise(source: ExportSource, exact: Path, path: Path, kind: GgufType) -> None:
    """Write a file with K-quants of the weights of a float32 file. Raises ExportFailed."""
    found = shutil.which(QUANTISER)
    with_package = [sys.executable, "-m", __name__, str(os.getpid()), str(exact), str(path), kind]
    command: Sequence[str] = with_package if found is None else [found, str(exact), str(path), kind.upper()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, source.while_waiting)
    if process.returncode != 0 or not path.exists():
        last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        raise ExportFailed(f"llama.cpp cannot quantise the weights to {kind}: {last}")


def main() -> None:
    """Quantise the file that the command line names."""
    parent, exact, path, kind = sys.argv[1:]
    die_with_parent(int(parent))
    bindings: Any = importlib.import_module(BINDINGS)
    parameters = bindings.LlamaModelQuantizeParams()
    parameters.ftype = int(FILE_TYPES[GgufType(kind)])
    bindings.model_quantize(exact, path, parameters)


if __name__ == "__main__":
    main()
