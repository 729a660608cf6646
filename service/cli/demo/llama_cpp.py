"""The speed of a GGUF file in llama.cpp, where the extra `llama-cpp` of the worker is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = "cyllama"
PROCESS = "worker.exports.gguf.llama_cpp_process"
TOKENS = 128  # that are written
BENCH = "llama-bench"  # llama.cpp's own program


def speed(file: Path) -> str:
    """The tokens a second that llama.cpp writes with a file, or the command that measures it.

    Raises CalledProcessError where llama.cpp does not load the file.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return f"Its speed: {BENCH} -m {file.name}"
    arguments = [str(os.getpid()), "rate", str(file), str(TOKENS)]
    command = [sys.executable, "-m", PROCESS, *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"llama.cpp writes {float(run.stdout.split()[-1]):.0f} tokens a second with it, on one core."
