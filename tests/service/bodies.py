"""Requests that are admitted, and models as far as the API looks at them."""

import json
from pathlib import Path
from typing import Any

from service.examples import INLINE


def model_directory(directory: Path, names: tuple[str, ...] = ("model.safetensors",), **config: Any) -> str:
    """A model as far as the API looks at it; its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    for name in names:
        (directory / name).touch()
    return directory.as_uri()


def request_body(directory: Path, **fields: Any) -> dict[str, Any]:
    """A request that is admitted, with `fields` in place of its own."""
    return INLINE | {"model": {"uri": model_directory(directory / "model")}} | fields
