"""Loads a checked checkpoint with the stock class of its family, or with the per-layer class where it needs that.

No code of a checkpoint is executed: the weights are safetensors, and remote code is never trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel
from service.models.families.family import ModelFamily
from service.models.families.sentence_encoder import SentenceEncoder
from service.models.tensors import adapter_names
from service.models.tensors.gemma4 import LAYER_SCALAR
from service.sources.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from worker.checkpoints.dtypes import (
    computing_dtype,
    fixed_parameters,
    make_computable,
    round_weights,
    rounded_dtypes,
    weight_dtypes,
)
from worker.checkpoints.encoders import sentence_encoder_of
from worker.checkpoints.tying import settle_tying
from worker.checkpoints.weights import FROM_DISK_ALONE, invalid_model, load_weights, own_config
from worker.data.slim_vocabulary import SlimVocabulary
from worker.slimming.architectures import architecture_of
from worker.slimming.free_memory import budget
from worker.slimming.streaming.layers import can_stream, stream
from worker.sources.validation import check_checkpoint, read_json, stored_tensors, weight_files

log = structlog.get_logger()


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with its tokenizer and family, and the directory from which it was loaded.

    `dtype` is that of its checkpoint by config.json, and of the slim one. `rounded` are the dtypes of tensors in the
    checkpoint whose numbers it cannot hold exactly. `sentence_encoder` says how an encoder's embeddings are made.
    `vocabulary` is that of a model some of whose tokens were removed after it was loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: ModelFamily
    dtype: torch.dtype
    directory: Path
    rounded: list[str]
    sentence_encoder: SentenceEncoder | None = None  # of an encoder without a head
    vocabulary: SlimVocabulary | None = None


def load_model(
    directory: Path, *, device: torch.device, adapter: Path | None = None, scratch: Path | None = None
) -> LoadedModel:
    """Load a checkpoint onto `device`, in evaluation mode, weights without gradients, the adapter merged.

    Weights that take more than half of the free memory of the host are put into files in `scratch`, where one is given
    and the family can be streamed.

    Raises InvalidModel where the checkpoint does not hold what its class needs, holds more than that, or where a weight
    is not finite, and the errors of `merge_adapter`.
    """
    replaced = adapter_names.replaced(stored_tensors([adapter / ADAPTER_WEIGHTS])) if adapter else ()
    task_type = read_json(adapter / ADAPTER_CONFIG).get("task_type") if adapter else None
    family, weights = check_checkpoint(
        directory, has_adapter=adapter is not None, replaced=replaced, task_type=task_type
    )
    if weights.quantised:
        raise ValueError(f"{directory} is quantised: what `fetch_model` returns is loaded")
    model, tokenizer = load_weights(directory, family, adapter), load_tokenizer(directory)
    settle_tying(model)
    dtype = model.dtype
    computed = computing_dtype(dtype, device.type, model.config.model_type)
    if scratch is not None and device.type == "cpu" and _needs_streaming(model, computed):
        log.info("the weights are larger than half of the free memory: they are streamed from files")
        stream(model, architecture_of(model), scratch, computed)
    if adapter is not None:
        from worker.checkpoints.adapters.merging import merge_adapter  # slow to import, and needed by few jobs

        model = merge_adapter(model, adapter)
    if set(weight_dtypes(model).values()) != {dtype}:  # transformers loads some weights of T5 in float32
        round_weights(model, dtype)
    _check_finite(model)
    nn.Module.to(model, device)
    make_computable(model)
    rounded = rounded_dtypes(_used_dtypes(directory, family, model.config.to_dict()), dtype)
    encoder = sentence_encoder_of(directory) if family.kind == "encoder" else None
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, family, dtype, directory, rounded, encoder)


def _needs_streaming(model: PreTrainedModel, computed: torch.dtype) -> bool:
    needed = computed.itemsize * sum(parameter.numel() for parameter in model.parameters())
    return needed > budget(torch.device("cpu")) and can_stream(architecture_of(model), model.config)


def _used_dtypes(directory: Path, family: ModelFamily, config: Mapping[str, Any]) -> set[str]:
    """The dtypes of the tensors in a checkpoint that the model is made of."""
    stored = stored_tensors(weight_files(directory))
    return {tensor.dtype for name, tensor in stored.items() if not family.may_leave_unused(name, config)}


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    fixed = fixed_parameters(model)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in fixed)


def _check_finite(model: nn.Module) -> None:
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith(LAYER_SCALAR))
    for name, tensor in (*model.named_parameters(), *buffers):
        # The extremes of a tensor need no copy of it; a number that is not finite is one of them.
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            message = f"the weights {name} are not finite numbers: save the model in a dtype that can hold them"
            raise InvalidModel(message, param="model.uri")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Raises InvalidModel for one that cannot be loaded."""
    with invalid_model("tokenizer"):
        config = own_config(read_json(directory / CONFIG))
        tokenizer = AutoTokenizer.from_pretrained(directory, **config, **FROM_DISK_ALONE)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
