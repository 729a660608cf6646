"""What marks a checkpoint whose layers have widths of their own (`output.layout: "per_layer"`)."""

from collections.abc import Mapping
from typing import Any

from service.contract.result import Result

MODULE = "modeling_taskslim"
MODELLING_FILE = f"{MODULE}.py"
CLASS_PREFIX = "PerLayer"


def has_own_widths(result: Result) -> bool:
    """Whether a job's checkpoint is for a class of ours."""
    return result.verified.loader.startswith(CLASS_PREFIX)


def is_per_layer(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of our own layout, the one with an `auto_map` that is taken; its code is not run."""
    match config:
        case {"layer_widths": dict(), "architectures": [str(name)], "auto_map": {**entries}}:
            return name.startswith(CLASS_PREFIX) and list(entries.values()) == [f"{MODULE}.{name}"]
    return False
