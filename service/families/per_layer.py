"""How to recognise a checkpoint whose layers have different widths (`output.layout: "per_layer"`)."""

from collections.abc import Mapping
from typing import Any

from service.contract.result import Result

MODULE = "modeling_taskslim"
MODELLING_FILE = f"{MODULE}.py"
CLASS_PREFIX = "PerLayer"


def has_own_widths(result: Result) -> bool:
    """Whether the layers of a job's checkpoint have different widths, so that a class of Taskslim has to load it."""
    return result.verified.loader.startswith(CLASS_PREFIX)


def is_per_layer(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a checkpoint with the per-layer layout.

    No other checkpoint with an `auto_map` is accepted. The code that the `auto_map` names is not run.
    """
    match config:
        case {"layer_widths": dict(), "architectures": [str(name)], "auto_map": {**entries}}:
            return name.startswith(CLASS_PREFIX) and list(entries.values()) == [f"{MODULE}.{name}"]
    return False
