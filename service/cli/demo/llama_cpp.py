"""The speed of a GGUF file, as llama.cpp's own program `llama-bench` measures it."""

import json
import shutil
import subprocess
from pathlib import Path

BENCH = "llama-bench"
TOKENS = 64  # that are written


def tokens_a_second(file: Path) -> float | None:
    """Tokens that llama.cpp writes a second with the file; None where it has no `llama-bench` on the PATH.

    Raises CalledProcessError where it does not load the file.
    """
    program = shutil.which(BENCH)
    if program is None:
        return None
    command = [program, "--model", str(file), "--n-prompt", "0", "--n-gen", str(TOKENS), "--output", "json"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(run.stdout)[0]["avg_ts"])
