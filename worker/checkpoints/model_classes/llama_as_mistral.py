"""Converts a Llama whose head count does not divide its hidden size to an equal Mistral.

The stock Llama class refuses such a config, even where it names the head size. A Mistral without a sliding window
computes the same.
"""

import torch
import transformers
from transformers import LlamaConfig, MistralConfig, PreTrainedModel

from service.models.families.source_config import LLAMA_ONLY, MISTRAL_CLASSES
from worker.checkpoints.tying import take_tensors


def to_stock_class(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or an equal Mistral over the same tensors where the stock Llama class refuses its head count."""
    config = model.config
    if not isinstance(config, LlamaConfig) or config.hidden_size % config.num_attention_heads == 0:
        return model
    settings = {name: value for name, value in config.to_dict().items() if name not in LLAMA_ONLY}
    with torch.device("meta"):  # without weights of its own, which would take as much memory as those of the model
        equal_class = getattr(transformers, MISTRAL_CLASSES[type(model).__name__])
        mistral: PreTrainedModel = equal_class(MistralConfig(**settings | {"sliding_window": None}))
    take_tensors(mistral, model)
    if model.can_generate():
        mistral.generation_config = model.generation_config
    mistral.eval()
    return mistral
