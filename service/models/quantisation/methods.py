"""How a config.json says that weights are quantised: the table of the methods that can be dequantised."""

from collections.abc import Callable, Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.models.quantisation.compressed_tensors import PACKED_BITS, compressed_tensors
from service.models.quantisation.scheme import NOTHING, Quantisation, Scheme
from service.models.quantisation.settings import NotDequantised, Settings, one_of, pair, without

FORMATS = "FP8, compressed-tensors, bitsandbytes, GPTQ or AWQ"  # docs/request.md has the details
INSTEAD = f"give the unquantised checkpoint, or one that is quantised as {FORMATS}, see docs/request.md"


def quantisation_of(config: Mapping[str, Any], model: str) -> Quantisation | None:
    """What a config.json says of the quantisation of its weights; None where it says nothing.

    Raises InvalidModel for a method, or settings of a method, that are not in the table.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    try:
        if not isinstance(settings, dict):
            raise NotDequantised("the quantization_config of config.json is no object")
        method = _method(settings)
        if method not in METHODS:
            raise NotDequantised(f"the method {method!r} is not dequantised")
        return METHODS[method](settings)
    except NotDequantised as error:
        raise refused(model, str(error)) from error


def refused(model: str, why: str) -> InvalidModel:
    """The error for quantised weights that cannot be dequantised."""
    return InvalidModel(f"the weights of {model} are quantised, and {why}: {INSTEAD}", param="model.uri")


def _method(settings: Settings) -> str:
    """The name of the method; older files of bitsandbytes do not say it."""
    is_older = settings.get("load_in_8bit") or settings.get("load_in_4bit")
    return str(settings.get("quant_method") or ("bitsandbytes" if is_older else None))


# --- FP8 -----------------------------------------------------------------------------------------------------------

ACTIVATION_SCALES = r".*\.(activation|input)_scale"
# Float8 weights with a scale for the tensor or for each row need no settings.
PLAIN_FP8 = Quantisation("FP8", (Scheme("fp8", kind="float"),))


def _fp8(settings: Settings) -> Quantisation:
    one_of(settings, "fmt", ("e4m3",), "e4m3")
    has_scales = one_of(settings, "activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    block = settings.get("weight_block_size")
    return Quantisation(
        "FP8",
        (Scheme("fp8", kind="float", block=None if block is None else pair(block, "weight_block_size")),),
        ACTIVATION_SCALES if has_scales else NOTHING,
    )


# --- bitsandbytes --------------------------------------------------------------------------------------------------


def _bitsandbytes(settings: Settings) -> Quantisation:
    if settings.get("load_in_8bit"):
        return Quantisation("bitsandbytes LLM.int8", (Scheme("llm_int8"),))
    if not settings.get("load_in_4bit"):
        raise NotDequantised("its settings load neither 8 nor 4 bits")
    kind = one_of(settings, "bnb_4bit_quant_type", ("nf4", "fp4"), "fp4")
    one_of(settings, "bnb_4bit_quant_storage", ("uint8",), "uint8")
    return Quantisation(f"bitsandbytes {kind.upper()}", (Scheme(kind, bits=4, kind=kind),))


# --- GPTQ and AWQ --------------------------------------------------------------------------------------------------


def _gptq(settings: Settings) -> Quantisation:
    without(settings, "is_marlin_format", "adapter", "rotation")
    one_of(settings, "pack_dtype", ("int32",), "int32")
    formats = ("gptq", "gptq_v2")
    form = one_of(settings, "checkpoint_format", formats, one_of(settings, "format", formats, "gptq"))
    bits = one_of(settings, "bits", PACKED_BITS)
    return Quantisation(f"GPTQ with {bits} bits", (Scheme("gptq", bits, zeros_less_one=form == "gptq"),))


def _awq(settings: Settings) -> Quantisation:
    one_of(settings, "bits", (4,), 4)
    version = settings.get("version") or settings.get("format") or "gemm"
    if str(version).lower() != "gemm":
        raise NotDequantised(f"its version {version!r} is not dequantised")
    return Quantisation("AWQ with 4 bits", (Scheme("awq", 4),))


# Method -> what its settings say.
METHODS: dict[str, Callable[[Settings], Quantisation]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda settings: PLAIN_FP8,
    "compressed-tensors": compressed_tensors,
    "bitsandbytes": _bitsandbytes,
    "gptq": _gptq,
    "awq": _awq,
}
