"""The process that runs mlx-lm. It does not import what this package needs besides.

`python -m worker.exports.mlx.process PARENT DIRECTORY QUESTIONS ANSWERS` writes the logits of rows of tokens.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from service.infrastructure.child_process import die_with_parent


def answer(directory: str, asked: str, answered: str) -> None:
    """Write the logits (T, V) of each row of tokens, computed in float32."""
    mx: Any = importlib.import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    model, _ = importlib.import_module("mlx_lm.utils").load_model(Path(directory))
    model.set_dtype(mx.float32)
    rows = mx.load(asked, format="safetensors")
    mx.save_safetensors(answered, {number: model(row[None])[0] for number, row in rows.items()})


def main() -> None:
    """Answer the questions that the command line names."""
    parent, *paths = sys.argv[1:]
    die_with_parent(int(parent))
    answer(*paths)


if __name__ == "__main__":
    main()
