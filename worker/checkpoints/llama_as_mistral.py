"""A Llama whose head count does not divide its hidden size, written as the Mistral that it equals.

Stock Llama refuses such a config, head size named or not. A Mistral without a sliding window computes the same.
"""

import torch
from transformers import LlamaConfig, MistralConfig, MistralForCausalLM, PreTrainedModel

# What a Mistral's config does not have; a Llama with biases never gets such a head count (slimming.architectures).
LLAMA_ONLY = ("attention_bias", "mlp_bias", "pretraining_tp", "model_type", "architectures", "transformers_version")


def stock_form(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or the equal Mistral where the stock class of its own family would refuse its head count."""
    config = model.config
    if not isinstance(config, LlamaConfig) or config.hidden_size % config.num_attention_heads == 0:
        return model
    settings = {name: value for name, value in config.to_dict().items() if name not in LLAMA_ONLY}
    with torch.device(model.device):
        twin: PreTrainedModel = MistralForCausalLM(MistralConfig(**settings | {"sliding_window": None}))
    twin.load_state_dict(model.state_dict(), assign=True)  # the same tensors, in the dtypes that they have
    twin.tie_weights()
    twin.generation_config = model.generation_config
    twin.eval()
    return twin
