"""How a config.json says that weights are quantised: the table of the methods that can be dequantised."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.errors import InvalidModel

Settings = Mapping[str, Any]  # `quantization_config` of a config.json

FORMATS = "FP8, compressed-tensors, bitsandbytes, GPTQ or AWQ"  # as the documents say in detail
INSTEAD = f"give the unquantised checkpoint, or one that is quantised as {FORMATS}, see docs/request.md"


@dataclass(frozen=True)
class Scheme:
    """How the weights of a group of modules are stored."""

    layout: str  # row of `service.sources.quantised_layouts.LAYOUTS`
    bits: int = 8
    kind: str = "int"  # of the values: `int` or `float`
    symmetric: bool = True  # whether zero is the value 0, so that there are no zero points
    strategy: str = ""  # what has a scale of its own: `tensor`, `channel`, `group`, `block`
    group_size: int | None = None
    block: tuple[int, int] | None = None
    zeros_less_one: bool = False  # whether zero points are stored less one
    targets: tuple[str, ...] = ()  # names of modules, regular expressions for them (`re:`), and names of classes


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a checkpoint are quantised."""

    name: str  # as reports call it
    schemes: tuple[Scheme, ...]
    while_running: str = r"(?!)"  # regular expression: tensors that no weight needs, for activations or the cache

    def scheme_of(self, module: str) -> Scheme | None:
        """The scheme of a module that is stored quantised: by its name where one names it, else by its class.

        The order is that of `compressed_tensors.utils.match.match_targets`: names, expressions, classes.
        """
        if len(self.schemes) == 1:
            return self.schemes[0]
        targets = {target: scheme for scheme in self.schemes for target in scheme.targets}
        named = (target for target in sorted(targets, key=lambda each: ("re:" in each, each)) if _names(target, module))
        target = next(named, "Embedding" if re.search("embed|wte", module) else "Linear")
        return targets.get(target)


def _names(target: str, module: str) -> bool:
    """Whether a target names the module."""
    return bool(re.match(target[3:], module)) if target.startswith("re:") else target == module


class _Refused(ValueError):
    """Settings that cannot be dequantised; the text says which."""


def quantisation_of(config: Mapping[str, Any], model: str) -> Quantisation | None:
    """What a config.json says of the quantisation of its weights; None where it says nothing.

    Raises InvalidModel for a method, or settings of a method, that are not in the table.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    try:
        if not isinstance(settings, dict):
            raise _Refused("the quantization_config of config.json is no object")
        method = _method(settings)
        if method not in METHODS:
            raise _Refused(f"the method {method!r} is not dequantised")
        return METHODS[method](settings)
    except _Refused as error:
        raise refused(model, str(error)) from error


def refused(model: str, why: str) -> InvalidModel:
    """The error for quantised weights that cannot be dequantised."""
    return InvalidModel(f"the weights of {model} are quantised, and {why}: {INSTEAD}", param="model.uri")


def _method(settings: Settings) -> str:
    """The name of the method; older files of bitsandbytes do not say it."""
    is_older = settings.get("load_in_8bit") or settings.get("load_in_4bit")
    return str(settings.get("quant_method") or ("bitsandbytes" if is_older else None))


def _one_of(settings: Settings, field: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
    """The value of a field. Raises _Refused where it is none of the allowed ones."""
    value = settings.get(field)
    value = default if value is None else value
    if not any(type(value) is type(each) and value == each for each in allowed):
        raise _Refused(f"its {field} {value!r} is not dequantised")
    return value


def _without(settings: Settings, *fields: str) -> None:
    """Raise _Refused for the first of the fields that is set."""
    for field in fields:
        if settings.get(field):
            raise _Refused(f"its {field} {settings[field]!r} is not dequantised")


def _pair(value: object, field: str) -> tuple[int, int]:
    """Two sizes, also in the older form "128x128"."""
    sizes = [int(size) if size.isdecimal() else 0 for size in value.split("x")] if isinstance(value, str) else value
    match sizes:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise _Refused(f"its {field} {value!r} is not dequantised")


# --- FP8 -----------------------------------------------------------------------------------------------------------

ACTIVATION_SCALES = r".*\.(activation|input)_scale"
CACHE_SCALES = r".*\.([kv]_(scale|zero_point)|[kv]_proj\.output_(scale|zero_point))"
NOTHING = r"(?!)"
# Float8 weights with a scale for the tensor or for each row need no settings.
PLAIN_FP8 = Quantisation("FP8", (Scheme("fp8", kind="float"),))


def _fp8(settings: Settings) -> Quantisation:
    _one_of(settings, "fmt", ("e4m3",), "e4m3")
    has_scales = _one_of(settings, "activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    block = settings.get("weight_block_size")
    return Quantisation(
        "FP8",
        (Scheme("fp8", kind="float", block=None if block is None else _pair(block, "weight_block_size")),),
        ACTIVATION_SCALES if has_scales else NOTHING,
    )


# Method -> what its settings say.
METHODS: dict[str, Callable[[Settings], Quantisation]] = {"fp8": _fp8, "fbgemm_fp8": lambda settings: PLAIN_FP8}
