"""Runs in the environment of mlx-lm: the logits of a prompt.

Standard input has one JSON object for each checkpoint. Beside the answer it writes how many tokens a second are
generated, with a cache.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

GENERATED = 32


def main() -> None:
    mx.set_default_device(mx.cpu)
    for line in sys.stdin.read().splitlines():
        cell = json.loads(line)
        size = sum(path.stat().st_size for path in Path(cell["model"]).glob("*.safetensors"))
        told = Path(cell["answer"] + ".json")
        try:
            told.write_text(json.dumps({"bytes": size, "tokens_per_second": answer(cell)}))
        except Exception as error:  # whatever the class of a model raises is the result
            told.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}))


def answer(cell: dict[str, Any]) -> float:
    """Write the logits; tokens a second."""
    model, _ = load_model(Path(cell["model"]))
    tokens = mx.load(cell["inputs"], format="safetensors")["input_ids"]
    mx.save_safetensors(cell["answer"] + ".safetensors", {"logits": model(tokens)})
    Path(cell["answer"] + ".safetensors").rename(cell["answer"])
    cache = make_prompt_cache(model)
    token = mx.argmax(model(tokens[:1], cache=cache)[:, -1:], axis=-1)
    started = time.perf_counter()
    for _ in range(GENERATED):
        token = mx.argmax(model(token, cache=cache), axis=-1)
        mx.eval(token)
    return GENERATED / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
