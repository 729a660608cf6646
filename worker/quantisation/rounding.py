"""Rounds the weights of a model in a precision, and counts the bytes of the model that this gives."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from service.contract.options import Precision
from worker.checkpoints.dtypes import fixed_parameters
from worker.quantisation.files import parts_of
from worker.quantisation.gptq import gptq
from worker.quantisation.layers import calibrated, linear_modules
from worker.quantisation.precisions import PRECISIONS, PrecisionTraits
from worker.quantisation.weights import QuantisedWeight, rounded, scale_of
from worker.slimming.architectures import Architecture
from worker.slimming.scoring.objectives import Batch

CALIBRATION_TOKENS = 2**16  # that the sums of products are taken over; of more rows an evenly spaced part is used


def quantised_weights(
    model: nn.Module,
    architecture: Architecture,
    precision: Precision,
    group_size: int | None,
    dtype: torch.dtype,
    batches: Sequence[Batch],
    on_layer: Callable[[int, int], None],
) -> dict[str, QuantisedWeight]:
    """Path -> quantised weight of every linear module in the layers. `dtype` is that of the checkpoint.

    `group_size` is that of the precisions whose groups have scales of their own, and divides the rows of all modules.
    """
    traits, modules = PRECISIONS[precision], linear_modules(model, architecture)

    def scale(weight_OI: Tensor) -> Tensor:
        return scale_of(weight_OI, traits.bits, group_size, traits.scale_dtype or dtype)

    if not traits.grouped:
        return {path: rounded(module.weight, scale(module.weight), traits.bits) for path, module in modules.items()}
    return calibrated(
        model,
        architecture,
        _part(batches),
        lambda weight_OI, gram_II: gptq(weight_OI, gram_II, scale(weight_OI), traits.bits),
        on_layer,
    )


def _part(batches: Sequence[Batch]) -> Sequence[Batch]:
    """As many of the batches as have CALIBRATION_TOKENS, evenly spaced, since they may be sorted by length."""
    tokens = sum(int(mask_BT.sum()) for batch in batches for mask_BT in batch.masks.values())
    return batches[:: max(1, -(-tokens // CALIBRATION_TOKENS))]


def tensor_bytes(
    model: nn.Module, weights: Mapping[str, QuantisedWeight], traits: PrecisionTraits, dtype: torch.dtype
) -> int:
    """Bytes of the tensors that are stored of a model; the weights that are not quantised are stored in `dtype`."""
    quantised = {f"{path}.weight": weight for path, weight in weights.items()}
    fixed = fixed_parameters(model)
    others = (each for name, each in model.named_parameters() if name not in quantised and name not in fixed)
    parts = (part for name, weight in quantised.items() for part in parts_of(name, weight, traits.storage).values())
    return sum(each.numel() * dtype.itemsize for each in others) + sum(part.nbytes for part in parts)
