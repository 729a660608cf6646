"""The logits of a checkpoint at every position of some rows, computed in float32 in a fresh process.

`python -m worker.exports.checkpoint_logits PARENT DIRECTORY ROWS LOGITS` is that process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contract.errors import ExportFailed
from service.infrastructure.child_process import die_with_parent
from service.sources.model_files import CONFIG
from worker.checkpoints.fresh_process import wait_for
from worker.checkpoints.verification import float32_logits, load_written
from worker.slimming.architectures import architecture_of


def checkpoint_logits(
    directory: Path, rows: Sequence[Tensor], scratch: Path, while_waiting: Callable[[], None]
) -> list[Tensor]:
    """The logits (T, V) of each row of tokens (T). Raises ExportFailed where the checkpoint does not load."""
    asked, answered = scratch / "rows.safetensors", scratch / "logits.safetensors"
    save_file({str(number): row for number, row in enumerate(rows)}, asked)
    compute_in_fresh_process(directory, asked, answered, while_waiting)
    found = load_file(answered)
    return [found[str(number)] for number in range(len(rows))]


def compute_in_fresh_process(directory: Path, asked: Path, answered: Path, while_waiting: Callable[[], None]) -> None:
    """Do what `compute` does in a process of its own. Raises ExportFailed where it raises."""
    command = [sys.executable, "-m", __name__, str(os.getpid()), str(directory), str(asked), str(answered)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = wait_for(process, while_waiting)
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        raise ExportFailed(f"the checkpoint does not load in a fresh process: {last}")


def compute(directory: Path, asked: Path, answered: Path) -> None:
    """Write the logits of the rows in a file to another one."""
    config = json.loads((directory / CONFIG).read_bytes())
    model = load_written(directory, getattr(torch, config["dtype"]), "cpu")
    architecture = architecture_of(model)
    logits = {
        number: float32_logits(model, architecture, {"input_ids": row.unsqueeze(0)}, directory)[0].contiguous()
        for number, row in load_file(asked).items()
    }
    save_file(logits, answered)


def main() -> None:
    """Compute what the command line names."""
    parent, *paths = sys.argv[1:]
    die_with_parent(int(parent))
    compute(*map(Path, paths))


if __name__ == "__main__":
    main()
