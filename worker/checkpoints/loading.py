"""Loads a checked checkpoint with the stock class of its family, or with the per-layer class where it needs that.

No code of a checkpoint is executed: the weights are safetensors, and remote code is never trusted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel
from service.families.table import AUTO_CLASSES as AUTO_CLASS_NAMES
from service.families.table import ModelFamily
from service.sources.model_files import CONFIG
from worker.checkpoints.dtypes import cast_weights, make_computable, round_weights, weight_dtypes
from worker.checkpoints.per_layer import loader_class
from worker.checkpoints.validation import check_checkpoint, read_json

# Kind of a family -> the Auto class of transformers that loads it.
AUTO_CLASSES: dict[str, Any] = {kind: getattr(transformers, name) for kind, name in AUTO_CLASS_NAMES.items()}
FROM_DISK_ALONE = {"trust_remote_code": False, "local_files_only": True}


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

    Raises InvalidModel where the checkpoint does not hold what its class needs.
    """
    family = check_checkpoint(directory)
    model, tokenizer = _load_weights(directory, family), _load_tokenizer(directory)
    dtype = model.dtype
    if adapter is not None:
        model = merge_adapter(model, adapter)
    if set(weight_dtypes(model).values()) != {dtype}:  # transformers loads some weights of T5 in float32
        round_weights(model, dtype)
    nn.Module.to(model, device)
    make_computable(model)
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, family, dtype, directory)


def merge_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a LoRA adapter added to its weights: in float32, then rounded once to the dtypes of the weights.

    Raises InvalidModel where the adapter does not fit the model.
    """
    dtypes = weight_dtypes(model)
    cast_weights(model, torch.float32)
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (ValueError, RuntimeError, TypeError) as error:
        raise InvalidModel(f"the adapter does not fit the model: {error}", param="model.adapter_uri") from error
    unmerged = [name for name, module in merged.named_modules() if type(module).__module__.startswith("peft.")]
    if unmerged:
        raise InvalidModel(f"the adapter cannot be merged into {unmerged[0]}", param="model.adapter_uri")
    cast_weights(merged, dtypes)
    return merged


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _load_weights(directory: Path, family: ModelFamily) -> PreTrainedModel:
    with _invalid_model("checkpoint"):
        loader = loader_class(read_json(directory / CONFIG), AUTO_CLASSES[family.kind])
        model, info = loader.from_pretrained(
            directory, dtype="auto", use_safetensors=True, output_loading_info=True, **FROM_DISK_ALONE
        )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise InvalidModel(
            f"{type(model).__name__} needs weights that the checkpoint lacks: {missing}", param="model.uri"
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    with _invalid_model("tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(directory, **FROM_DISK_ALONE)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


@contextmanager
def _invalid_model(what: str) -> Iterator[None]:
    """Turn the errors that transformers raises for unreadable files into InvalidModel."""
    try:
        yield
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise InvalidModel(f"the {what} cannot be loaded: {error}", param="model.uri") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise InvalidModel("the weights do not have the shapes that config.json says", param="model.uri") from error
