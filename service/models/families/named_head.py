"""Whether the head that a config.json names is the head that is loaded."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import UnsupportedFamily
from service.models.families.family import ModelFamily
from service.models.families.per_layer import is_per_layer


def check_head(config: Mapping[str, Any], family: ModelFamily, *, has_adapter: bool) -> None:
    """Raise UnsupportedFamily unless config.json names the head that the family's class has.

    An adapter may bring the head to an encoder. A config.json that names no class says nothing about its head.
    """
    named = config.get("architectures")
    if named in (None, []) or is_per_layer(config):
        return
    accepted = [family.model_class, *family.same_head]
    with_adapter = family.pretrained.classes if family.pretrained else ()
    if isinstance(named, list) and (named[0] in accepted or (has_adapter and named[0] in with_adapter)):
        return
    found = named[0] if isinstance(named, list) else named
    supported = " and ".join(family.described.classes)
    message = f"config.json names the class {found!r}: of {family.model_type}, {supported} can be slimmed"
    if found in with_adapter:
        message += ", or an adapter that holds the classification head"
    raise UnsupportedFamily(message, param="model.uri")
