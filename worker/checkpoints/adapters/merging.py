"""Merges a LoRA adapter into a model: every tensor of it, and so that the logits stay those of model and adapter.

The merged model is compared with the model beside its adapter, as PEFT runs it, on some tokens.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel, VerificationFailed
from service.sources.model_files import ADAPTER_WEIGHTS
from worker.checkpoints.dtypes import cast_weights, weight_dtypes
from worker.checkpoints.encoders import outputs_of
from worker.checkpoints.tying import tie_equal, untie
from worker.data.wordings import answer_vocabulary

PROBE_TOKENS = 16  # in each of the two rows on which merged and unmerged model are compared
TOLERANCE = 1e-3  # difference of a logit that counts as rounding in float32, relative to the greatest logit


def merge_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a LoRA adapter added to its weights: in float32, then rounded once to the dtypes of the weights.

    Weights that the adapter changes alone are no longer tied to others. Raises InvalidModel where the adapter does not
    fit the model, and VerificationFailed where the merged model differs from the model with the adapter beside it.
    """
    dtypes = weight_dtypes(model)
    cast_weights(model, torch.float32)
    model.eval()
    adapted = _adapted(model, adapter)
    _check_all_used(adapted, load_file(adapter / ADAPTER_WEIGHTS))
    expected = _probe_logits(adapted, model.config)
    merged = _merge(adapted)
    _compare(_probe_logits(merged, merged.config), expected)
    cast_weights(merged, dtypes)
    return merged


def _adapted(model: PreTrainedModel, adapter: Path) -> PeftModel:
    try:
        with warnings.catch_warnings(action="ignore"):  # `_check_all_used` says what they say
            return PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise _refused(f"the adapter does not fit the model: {error}") from error


def _merge(adapted: PeftModel) -> PreTrainedModel:
    untie(adapted)
    try:
        with warnings.catch_warnings(action="ignore"):  # that weights are untied, which `tie_equal` decides
            merged: PreTrainedModel = adapted.merge_and_unload()
    except (ValueError, RuntimeError, TypeError) as error:
        raise _refused(f"the adapter cannot be merged: {error}") from error
    unmerged = [name for name, module in merged.named_modules() if type(module).__module__.startswith("peft.")]
    if unmerged:
        raise _refused(f"the adapter cannot be merged into {unmerged[0]}")
    tie_equal(merged)
    return merged.requires_grad_(False)


def _check_all_used(adapted: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Raise InvalidModel unless the tensors of the adapter's file are those that the adapted model holds."""
    held = adapted.state_dict() | get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name, tensor in sorted(tensors.items()):
        if name not in held:
            message = f"the adapter's tensor {name} belongs to no module of {type(adapted.get_base_model()).__name__}"
            raise _refused(f"{message}: give an adapter of this model with this head")
        if not tensor.isfinite().all():
            raise _refused(f"the adapter's tensor {name} holds numbers that are not finite")
        if not torch.equal(held[name].cpu().to(tensor.dtype), tensor):
            raise _refused(f"the adapter's tensor {name} does not reach the model")
    lacking = sorted(get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - tensors.keys())
    if lacking:
        raise _refused(f"the adapter lacks {lacking[0]}, which its adapter_config.json asks for")


def _probe_logits(model: nn.Module, config: Any) -> Tensor:
    """The logits for tokens from the whole vocabulary."""
    inputs = {"input_ids": _probe_tokens(config.get_text_config().vocab_size)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _probe_tokens(answer_vocabulary(config)).flip(0)
    with torch.inference_mode():
        return outputs_of(model, inputs)


def _probe_tokens(vocabulary: int) -> Tensor:
    return torch.linspace(0, vocabulary - 1, 2 * PROBE_TOKENS).long().view(2, -1)


def _compare(merged: Tensor, expected: Tensor) -> None:
    if not expected.isfinite().all():
        raise _refused("the model with the adapter gives outputs that are not finite numbers")
    difference, greatest = (merged - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= TOLERANCE * greatest:
        message = f"the merged model differs from the model with its adapter by {difference:.3g} of {greatest:.3g}"
        raise VerificationFailed(f"{message}: merge the adapter and give the merged checkpoint as model.uri")


def _refused(message: str) -> InvalidModel:
    return InvalidModel(message, param="model.adapter_uri")
