"""Whether a checkpoint has the per-layer layout as this version writes it."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from service.models.families.per_layer import AUTO_BASE, CLASS_PREFIX, MODELLING_FILE, MODULE, is_per_layer
from service.models.families.table import FAMILIES, named_class, with_head

MODELLING_MODULE = f"worker.checkpoints.model_classes.{MODULE}"


def is_valid_per_layer(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the checkpoint has the per-layer layout of a supported family, and the modelling file of this version.

    That file is never run here, and still it has to equal `modeling_taskslim` byte by byte.
    """
    if not is_per_layer(config):
        return False
    row = FAMILIES.get(str(config.get("model_type")))
    family = row and with_head(row, named_class(config))
    if family is None or named_class(config) != family.model_class or not _names_its_base(config):
        return False
    widths, file, spec = config["layer_widths"], directory / MODELLING_FILE, find_spec(MODELLING_MODULE)
    assert spec is not None, "the module is ours"
    assert spec.origin is not None, "it is a file"
    return (
        widths.keys() == {stack.name for stack in family.names.stacks}
        and all(_are_widths(layers) for layers in widths.values())
        and file.is_file()
        and file.read_bytes() == Path(spec.origin).read_bytes()
    )


def _names_its_base(config: Mapping[str, Any]) -> bool:
    """Whether the class without a head, where the `auto_map` names one, is that of the family."""
    expected = f"{MODULE}.{CLASS_PREFIX}{MODEL_MAPPING_NAMES[config['model_type']]}"
    return bool(config["auto_map"].get(AUTO_BASE, expected) == expected)


def _are_widths(layers: object) -> bool:
    return isinstance(layers, list) and all(
        isinstance(fields, dict) and all(isinstance(value, int) and value > 0 for value in fields.values())
        for fields in layers
    )
