"""The precisions of quantised copies: how each rounds weights, and how a library stores them."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from torch import Tensor

from service.contract.errors import UnsupportedFormat
from service.contract.options import Precision
from service.exports.precisions import PARAM
from worker.quantisation.weights import QuantisedWeight

EXTRA = "quantise"  # of pyproject.toml
LINEAR = "Linear"

Parts = dict[str, Tensor]  # name of a tensor in the files -> tensor


@dataclass(frozen=True)
class Storage:
    """How a library stores quantised weights.

    `parts` are the tensors of a weight by its name, `settings` the `quantization_config`, for which it is given the
    group size and the linear modules that stay as they are, and `metadata` that of every file, from the dtype and the
    shapes of all tensors and the names of those that are quantised.
    """

    library: str
    parts: Callable[[str, QuantisedWeight], Parts]
    settings: Callable[[int | None, list[str]], dict[str, Any]]
    metadata: Callable[[torch.dtype, Mapping[str, tuple[int, ...]], Iterable[str]], dict[str, str]]


@dataclass(frozen=True)
class PrecisionTraits:
    """How a precision rounds weights and activations, and how it is stored."""

    bits: int
    storage: Storage
    scale_dtype: torch.dtype | None = None  # None: the dtype of the checkpoint
    activation_bits: int | None = None
    grouped: bool = False  # whether groups of a row have scales of their own, and the rounding is calibrated


def check_precision_packages(precisions: Iterable[Precision]) -> None:
    """Raise UnsupportedFormat for a precision whose library is not installed."""
    for precision in precisions:
        library = PRECISIONS[precision].storage.library
        if find_spec(library) is None:
            raise UnsupportedFormat(
                f"`{precision}`: this worker lacks {library}: install `taskslim[worker,{EXTRA}]` there, or leave "
                f"`{precision}` out of `{PARAM}`",
                param=PARAM,
            )


# --- compressed-tensors --------------------------------------------------------------------------------------------


def _scheme(bits: int, group_size: int | None, activation_bits: int | None) -> QuantizationScheme:
    strategy = "channel" if group_size is None else "group"
    weights = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group_size)
    inputs = activation_bits and QuantizationArgs(num_bits=activation_bits, strategy="token", dynamic=True)
    return QuantizationScheme(targets=[LINEAR], weights=weights, input_activations=inputs or None)


def _compressed(form: str, bits: int, activation_bits: int | None = None) -> Storage:
    """The storage in a format of compressed-tensors."""

    def parts(name: str, weight: QuantisedWeight) -> Parts:
        groups = weight.scale_OG.shape[1]
        scheme = _scheme(bits, weight.value_OI.shape[1] // groups if groups > 1 else None, activation_bits)
        # Whole numbers times 1 round to themselves, whatever the dtype of the scale.
        whole = {"weight": weight.value_OI.float(), "weight_scale": torch.ones_like(weight.scale_OG.float())}
        compressed = BaseCompressor.get_value_from_registry(form).compress(whole, scheme)
        module = name.removesuffix("weight")
        return {f"{module}{part}": tensor for part, tensor in (compressed | {"weight_scale": weight.scale_OG}).items()}

    def settings(group_size: int | None, ignored: list[str]) -> dict[str, Any]:
        scheme = _scheme(bits, group_size, activation_bits).model_copy(update={"format": form})
        config = QuantizationConfig(
            config_groups={"group_0": scheme},
            format=form,
            quantization_status=QuantizationStatus.COMPRESSED,
            ignore=ignored,
        )
        found: dict[str, Any] = config.to_dict()
        return found | {"quant_method": "compressed-tensors"}

    return Storage("compressed_tensors", parts, settings, lambda dtype, shapes, quantised: {"format": "pt"})


# --- torchao -------------------------------------------------------------------------------------------------------


def _torchao_parts(name: str, weight: QuantisedWeight) -> Parts:
    module, _, tensor = name.rpartition(".")
    zero_OG = torch.zeros_like(weight.scale_OG, dtype=torch.int8)
    parts = {"qdata": weight.value_OI, "scale": weight.scale_OG, "zero_point": zero_OG}
    return {f"{module}._{tensor}_{part}": value for part, value in parts.items()}


def _torchao_settings(group_size: int | None, ignored: list[str]) -> dict[str, Any]:
    quantization, transformers = (importlib.import_module(name) for name in ("torchao.quantization", "transformers"))
    config = transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=ignored)
    found: dict[str, Any] = config.to_dict()
    return found


def _torchao_metadata(
    dtype: torch.dtype, shapes: Mapping[str, tuple[int, ...]], quantised: Iterable[str]
) -> dict[str, str]:
    """What torchao writes of the tensors, from which it makes its own out of the parts."""
    quantization = importlib.import_module("torchao.quantization")
    support = importlib.import_module("torchao.prototype.safetensors.safetensors_support")
    names = set(quantised)

    def described(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in names:
            return torch.empty(shape, dtype=dtype, device="meta")
        blank = torch.empty(shape, dtype=torch.int8, device="meta")
        scale = torch.empty(shape[0], 1, device="meta")
        tensor: Tensor = quantization.Int8Tensor(blank, scale, [1, shape[1]], dtype, zero_point=scale.to(torch.int8))
        return tensor

    _, metadata = support.flatten_tensor_state_dict({name: described(name, shape) for name, shape in shapes.items()})
    return {str(name): str(value) for name, value in metadata.items()} | {"format": "pt"}


TORCHAO = Storage("torchao", _torchao_parts, _torchao_settings, _torchao_metadata)

PRECISIONS: dict[Precision, PrecisionTraits] = {
    Precision.int8: PrecisionTraits(8, TORCHAO, scale_dtype=torch.float32),
    Precision.w8a8: PrecisionTraits(8, _compressed("int-quantized", 8, 8), activation_bits=8),
    Precision.w4a16: PrecisionTraits(4, _compressed("pack-quantized", 4), grouped=True),
}
