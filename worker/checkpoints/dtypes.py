"""The dtypes of a model's weights: those of its checkpoint, and those in which it is computed."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.slimming.streaming.mapped import beside

# Families that were trained in bfloat16 and whose activations exceed 65,504, the largest number of float16.
OVERFLOWING = frozenset({"t5", "mt5", "umt5", "t5gemma", "gemma2", "gemma3_text", "gemma4_text", "glm4"})


COMPARED = 2**22  # numbers

# The dtypes of floating-point tensors in safetensors files, by their names there.
STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def rounded_dtypes(stored: Iterable[str], dtype: torch.dtype) -> list[str]:
    """Those of the dtypes in a checkpoint whose numbers `dtype` cannot hold exactly, by their names in torch."""
    found = {STORED[name] for name in stored if name in STORED}
    return sorted(str(each).removeprefix("torch.") for each in found if torch.promote_types(each, dtype) is not dtype)


def weight_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Name -> dtype of every parameter, a shared one under each of its names."""
    return {name: parameter.dtype for name, parameter in model.named_parameters(remove_duplicate=False)}


def fixed_parameters(model: nn.Module) -> set[str]:
    """The names of parameters that are no part of a checkpoint, such as the sinusoids of Marian's positions."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def cast_weights(model: nn.Module, dtypes: torch.dtype | Mapping[str, torch.dtype]) -> None:
    """Convert the parameters in place, to one dtype or to that of each name.

    Buffers keep their dtype: rotary frequencies in half precision would make it another model.
    """
    for name, parameter in model.named_parameters():
        dtype = dtypes if isinstance(dtypes, torch.dtype) else dtypes[name]
        if parameter.dtype is not dtype:
            parameter.data = beside(parameter.data, parameter.data.to(dtype))


def make_computable(model: PreTrainedModel) -> None:
    """Convert half precision to float32 where the device or the family cannot be computed in it."""
    computed = computing_dtype(model.dtype, model.device.type, model.config.model_type)
    if computed is not model.dtype:
        cast_weights(model, computed)


def computing_dtype(stored: torch.dtype, device: str, model_type: str) -> torch.dtype:
    """The dtype that a model is computed in.

    It is float32 for float16 on every CPU, since its gradients underflow; for bfloat16 on a CPU without instructions
    for it, where it takes many times as long; and for float16 of a family whose activations overflow in it.
    """
    unsuitable = set()
    if device == "cpu":
        unsuitable = {torch.float16} if has_bfloat16() else {torch.float16, torch.bfloat16}
    elif model_type in OVERFLOWING:
        unsuitable = {torch.float16}
    return torch.float32 if stored in unsuitable else stored


def has_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply bfloat16 matrices."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def round_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights to values that `dtype` can hold, in the dtypes that they have.

    Those that it holds already stay the tensors that they are, which other models may share.
    """
    for parameter in model.parameters():
        if not _holds(dtype, parameter.data):
            parameter.data = beside(parameter.data, parameter.data.to(dtype).to(parameter.dtype))


def _holds(dtype: torch.dtype, tensor: Tensor) -> bool:
    """Whether the dtype can hold the numbers of the tensor; a part of them at a time, so that no copy is made."""
    return all(torch.equal(part.to(dtype).to(part.dtype), part) for part in tensor.reshape(-1).split(COMPARED))
