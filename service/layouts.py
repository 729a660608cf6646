"""What marks a checkpoint whose layers have widths of their own (`output.layout: "per-layer"`)."""

from collections.abc import Mapping
from typing import Any

MODULE = "modeling_taskslim"
MODELLING_FILE = f"{MODULE}.py"
CLASS_PREFIX = "PerLayer"


def is_per_layer(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of our own layout, the one with an `auto_map` that is taken; its code is not run."""
    match config:
        case {"layer_widths": dict(), "architectures": [str(name)], "auto_map": {**entries}}:
            return name.startswith(CLASS_PREFIX) and list(entries.values()) == [f"{MODULE}.{name}"]
    return False
