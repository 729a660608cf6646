"""How to recognise a checkpoint whose layers have different widths (`output.layout: "per_layer"`)."""

import re
from collections.abc import Mapping
from typing import Any

from service.contract.answers.result import Result

MODULE = "modeling_taskslim"
MODELLING_FILE = f"{MODULE}.py"
CLASS_PREFIX = "PerLayer"
AUTO_BASE = "AutoModel"  # finds a model without its head


def has_own_widths(result: Result) -> bool:
    """Whether the layers of a job's checkpoint have different widths, so that a class of Taskslim has to load it."""
    return result.verified.loader.startswith(CLASS_PREFIX)


def is_per_layer(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a checkpoint with the per-layer layout.

    No other checkpoint with an `auto_map` is accepted. The code that the `auto_map` names is not run. Beside the class
    of the model it may name the one without a head, which checkpoints of older versions do not.
    """
    match config:
        case {"layer_widths": dict(), "architectures": [str(name)], "auto_map": {**entries}}:
            others = {auto: entry for auto, entry in entries.items() if entry != f"{MODULE}.{name}"}
            is_ours = name.startswith(CLASS_PREFIX) and len(entries) == len(others) + 1
            return is_ours and (not others or (others.keys() == {AUTO_BASE} and _is_class(others[AUTO_BASE])))
    return False


def _is_class(entry: object) -> bool:
    """Whether an entry of an `auto_map` names a per-layer class of our file."""
    return isinstance(entry, str) and re.fullmatch(rf"{MODULE}\.{CLASS_PREFIX}\w+", entry) is not None
