"""Loads a checked checkpoint with the stock class of its family, or with the per-layer class where it needs that.

No code of a checkpoint is executed: the weights are safetensors, and remote code is never trusted.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel
from service.families.table import ModelFamily
from service.sources.model_files import CONFIG
from worker.checkpoints.adapters import merge_adapter
from worker.checkpoints.dtypes import fixed_parameters, make_computable, round_weights, weight_dtypes
from worker.checkpoints.tying import settle_tying
from worker.checkpoints.validation import check_checkpoint, read_json
from worker.checkpoints.weights import FROM_DISK_ALONE, invalid_model, load_weights, own_config


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with its tokenizer and family, and the directory from which it was loaded.

    `dtype` is that of its checkpoint, and of the slim one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: ModelFamily
    dtype: torch.dtype
    directory: Path


def load_model(directory: Path, *, device: torch.device, adapter: Path | None = None) -> LoadedModel:
    """Load a checkpoint onto `device`, in evaluation mode, weights without gradients, the adapter merged.

    Raises InvalidModel where the checkpoint does not hold what its class needs, holds more than that, or where a weight
    is not finite, and the errors of `merge_adapter`.
    """
    family = check_checkpoint(directory, has_adapter=adapter is not None)
    model, tokenizer = load_weights(directory, family, adapter), _load_tokenizer(directory)
    settle_tying(model)
    dtype = model.dtype
    if adapter is not None:
        model = merge_adapter(model, adapter)
    if set(weight_dtypes(model).values()) != {dtype}:  # transformers loads some weights of T5 in float32
        round_weights(model, dtype)
    _check_finite(model)
    nn.Module.to(model, device)
    make_computable(model)
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, family, dtype, directory)


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    fixed = fixed_parameters(model)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in fixed)


def _check_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            message = f"the weights {name} are not finite numbers: save the model in a dtype that can hold them"
            raise InvalidModel(message, param="model.uri")


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    with invalid_model("tokenizer"):
        config = own_config(read_json(directory / CONFIG))
        tokenizer = AutoTokenizer.from_pretrained(directory, **config, **FROM_DISK_ALONE)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
