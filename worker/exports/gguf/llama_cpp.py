"""llama.cpp by the package `cyllama`, in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contract.errors import ExportFailed
from worker.checkpoints.fresh_process import wait_for
from worker.exports.questions import Questions
from worker.exports.source import ExportSource

PACKAGE = "cyllama"
PROCESS = "worker.exports.gguf.llama_cpp_process"


@dataclass(frozen=True)
class Answers:
    """What llama.cpp makes of the questions: the logits of each row (T, V), and the tokens of each text."""

    logits: list[Tensor]
    tokens: list[list[int]]
    framed: list[list[int]]  # with the special tokens that the file says


def has_llama_cpp() -> bool:
    """Whether this installation has llama.cpp."""
    return importlib.util.find_spec(PACKAGE) is not None


def described() -> str:
    """The llama.cpp of this installation, in words."""
    return f"llama.cpp ({PACKAGE} {version(PACKAGE)})"


def ask(source: ExportSource, path: Path, questions: Questions) -> Answers:
    """The answers of a file. Raises ExportFailed where llama.cpp does not load it."""
    asked, answered = source.scratch / "questions.safetensors", source.scratch / "answers.safetensors"
    rows = {str(number): row for number, row in enumerate(questions.tokens)}
    save_file(rows, asked, {"texts": json.dumps(questions.texts)})
    call("answer", [path, asked, answered], source.while_waiting)
    tokens = json.loads(Path(f"{answered}.json").read_text(encoding="utf-8"))
    logits = load_file(answered)
    return Answers([logits[number] for number in rows], **tokens)


def call(action: str, arguments: Sequence[Path | str], while_waiting: Callable[[], None]) -> None:
    """Let the process do something. Raises ExportFailed where it fails."""
    command = [sys.executable, "-m", PROCESS, str(os.getpid()), action, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, while_waiting)
    if process.returncode != 0:
        raise ExportFailed(f"llama.cpp fails ({action} {Path(arguments[0]).name}): {complaint(errors)}")


def complaint(errors: str) -> str:
    """The line of a log that says what is wrong."""
    lines = errors.strip().splitlines() or ["it printed nothing"]
    return next((line.strip() for line in lines if "error" in line.lower()), lines[-1])
