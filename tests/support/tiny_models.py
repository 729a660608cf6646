"""Small random models, one or more for every family: two layers each, built in milliseconds without downloads."""

import pickle
import re
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from service.models.families.family import ModelFamily
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.models.families.table import FAMILIES, with_head
from service.models.tensors.gemma4 import LAYER_SCALAR
from service.models.tensors.names import CORRECTION

VOCABULARY = 128
HIDDEN_SIZE = 32
FFN_WIDTH = 48

TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA: dict[str, Any] = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": FFN_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
SLIDING: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
# The keys of the layer of full attention are its values, and its heads have another size.
GEMMA4: dict[str, Any] = SLIDING | {
    "global_head_dim": 16,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
# The second layer reads the keys and values of the first.
SHARED_KEYS: dict[str, Any] = {
    "global_head_dim": 8,
    "layer_types": ["full_attention"] * 2,
    "num_kv_shared_layers": 1,
}
LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]} | {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
T5: dict[str, Any] = TOKENS | {
    "d_model": 32,
    "d_ff": FFN_WIDTH,
    "d_kv": 8,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "decoder_start_token_id": 0,
}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BERT: dict[str, Any] = {key: LLAMA[key] for key in LLAMA if key not in ("num_key_value_heads", "head_dim")} | {
    "num_labels": 3
}
DISTILBERT = {"dim": 32, "hidden_dim": FFN_WIDTH, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
MODERNBERT = {"local_attention": 8, "norm_bias": True, "cls_token_id": 1, "sep_token_id": 2}
RELATIVE: dict[str, Any] = {
    "position_biased_input": False,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
}


def _model(auto: Any, model_type: str, settings: dict[str, Any]) -> PreTrainedModel:
    return deepcopy(_built(auto, model_type, pickle.dumps(settings)))


@lru_cache(maxsize=256)
def _built(auto: Any, model_type: str, settings: bytes) -> PreTrainedModel:
    """The model that `_model` copies, which takes half of the time of building it again."""
    with torch.random.fork_rng(), torch.device("cpu"):  # also for a caller that builds on another device
        torch.manual_seed(0)
        model: PreTrainedModel = auto.from_config(AutoConfig.for_model(model_type, **pickle.loads(settings)))
        # Initial biases are all zero and norm weights all one, which would hide a cut of the wrong indices.
        # Those without gradients are sinusoids, which are no part of every checkpoint.
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.data.mul_(4)
        for name, buffer in model.named_buffers():
            if name.endswith((LAYER_SCALAR, CORRECTION)):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    model.eval()
    return model


def causal(model_type: str, **settings: Any) -> PreTrainedModel:
    """A decoder-only model; `settings` override or extend those of a Llama, and None leaves one out."""
    chosen = {name: value for name, value in (LLAMA | settings).items() if value is not None}
    return _model(AutoModelForCausalLM, model_type, chosen)


def encoder_decoder(model_type: str, **settings: Any) -> PreTrainedModel:
    """An encoder-decoder; `settings` override or extend those of a T5 v1.0."""
    return _model(AutoModelForSeq2SeqLM, model_type, T5 | settings)


def classifier(model_type: str, **settings: Any) -> PreTrainedModel:
    """An encoder with a three-class head; `settings` override or extend those of a BERT."""
    return _model(AutoModelForSequenceClassification, model_type, BERT | settings)


def decoder_classifier(model_type: str, **settings: Any) -> PreTrainedModel:
    """A decoder with a three-class head; `settings` override or extend those of a Llama."""
    return _model(AutoModelForSequenceClassification, model_type, LLAMA | {"num_labels": 3} | settings)


def token_classifier(model_type: str, **settings: Any) -> PreTrainedModel:
    """An encoder with a head of five classes for each token; `settings` override or extend those of a BERT."""
    chosen = {**BERT, "id2label": dict(enumerate(TAGS)), **settings}
    del chosen["num_labels"]
    return _model(AutoModelForTokenClassification, model_type, chosen)


# Family -> a function that makes a model with a head for tokens.
WITH_TOKEN_HEAD: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: token_classifier("bert"),
    "roberta": lambda: token_classifier("roberta"),
    "distilbert": lambda: _model(
        AutoModelForTokenClassification, "distilbert", TOKENS | DISTILBERT | {"id2label": dict(enumerate(TAGS))}
    ),
    "xlm-roberta": lambda: token_classifier("xlm-roberta"),
    "electra": lambda: token_classifier("electra", embedding_size=16),
    "modernbert": lambda: token_classifier("modernbert", **MODERNBERT),
    "deberta-v2": lambda: token_classifier("deberta-v2", **RELATIVE),
}

# Names in TINY of models with a head -> a function that makes them with other settings, such as another head.
WITH_HEAD: dict[str, Callable[..., PreTrainedModel]] = {
    "bert": lambda **settings: classifier("bert", **settings),
    "llama_classifier": lambda **settings: decoder_classifier("llama", **settings),
}


def encoder(model_type: str, **settings: Any) -> PreTrainedModel:
    """An encoder without a head; `settings` override or extend those of its family's model in TINY."""
    config = TINY[model_type]().config.to_dict()
    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    return _model(AutoModel, model_type, deepcopy(fields | settings))


def gpt2(auto: Any = AutoModelForCausalLM, **settings: Any) -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_inner": FFN_WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return _model(auto, "gpt2", TOKENS | sizes | settings)


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "ffn_dim": FFN_WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    return _model(
        AutoModelForCausalLM, "opt", TOKENS | sizes | {"max_position_embeddings": 64, "word_embed_proj_dim": 32}
    )


def bart(model_type: str = "bart", **settings: Any) -> PreTrainedModel:
    """A BART, or a model with fields of the same names; `settings` override or extend those of the BART."""
    sizes = {"d_model": 32, "encoder_ffn_dim": FFN_WIDTH, "decoder_ffn_dim": 40, "max_position_embeddings": 64}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ends = {"decoder_start_token_id": 2, "forced_eos_token_id": None}
    return _model(AutoModelForSeq2SeqLM, model_type, TOKENS | sizes | layers | ends | settings)


def distilbert() -> PreTrainedModel:
    return _model(AutoModelForSequenceClassification, "distilbert", TOKENS | DISTILBERT | {"num_labels": 3})


def t5gemma(window: int = 8) -> PreTrainedModel:
    """An encoder and a decoder of unequal sizes; LLAMA has those of the decoder."""
    # The embedding of the padding token is zero, and the decoders of some tests begin with the token 0.
    own = {"query_pre_attn_scalar": 8, "sliding_window": window, "pad_token_id": 3}
    parts: dict[str, Any] = {"decoder": LLAMA | own}
    parts["encoder"] = parts["decoder"] | {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 6}
    parts["encoder"] |= {"num_key_value_heads": 3}
    return _model(AutoModelForSeq2SeqLM, "t5gemma", parts | {"vocab_size": VOCABULARY, "decoder_start_token_id": 1})


def deberta(**settings: Any) -> PreTrainedModel:
    """A DeBERTa with relative positions, as version 3 has them; `settings` override or extend its own."""
    return classifier("deberta-v2", **RELATIVE | settings)


def deberta_with_convolution() -> PreTrainedModel:
    """A DeBERTa with the parts that version 2 may have besides."""
    parts = {"conv_kernel_size": 3, "share_att_key": True, "norm_rel_ebd": "layer_norm", "embedding_size": 16}
    return deberta(type_vocab_size=2, initializer_range=0.05, **parts)


def changed(name: str, **settings: Any) -> PreTrainedModel:
    """A model of `TINY` with other fields in its config."""
    config, family = TINY[name]().config, tiny_family(name)
    fields = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    return _model(getattr(transformers, family.auto_class), family.model_type, deepcopy(fields | settings))


def inputs_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Fixed tokens as inputs of a model, two rows of them."""
    inputs = {"input_ids": torch.arange(4, 24).view(2, 10)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(4, 12).view(2, 4)
    return inputs


def logits(model: PreTrainedModel) -> Tensor:
    """The logits of a model for fixed tokens."""
    with torch.inference_mode():
        answer: Tensor = model(**inputs_of(model)).logits
    return answer


def tiny_family(name: str) -> ModelFamily:
    """The family of a tiny model of `TINY`."""
    family = FAMILIES[base_name(name)]
    if name.endswith("_tokens"):
        return with_head(family, TOKEN_CLASSIFIERS[family.model_type])
    return with_head(family, DECODER_CLASSIFIERS[family.model_type]) if name.endswith("_classifier") else family


def family_of_model(model: PreTrainedModel) -> ModelFamily:
    """The family of a model, with the head of its class."""
    return with_head(FAMILIES[model.config.model_type], type(model).__name__)


def base_name(name: str) -> str:
    """The family of a name in `TINY`."""
    return re.sub(r"_(gated|conv|shared|classifier|tokens)$", "", name)


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: causal("llama"),
    "mistral": lambda: causal("mistral"),
    "qwen2": lambda: causal("qwen2"),
    "qwen3": lambda: causal("qwen3"),
    "gemma2": lambda: causal("gemma2"),
    "gemma3_text": lambda: causal("gemma3_text"),
    "phi3": lambda: causal("phi3"),
    "olmo2": lambda: causal("olmo2"),
    "olmo3": lambda: causal("olmo3", **SLIDING),
    "qwen3_5_text": lambda: causal("qwen3_5_text", **LINEAR),
    "gemma4_text": lambda: causal("gemma4_text", **GEMMA4),
    "gemma4_text_shared": lambda: causal("gemma4_text", **GEMMA4 | SHARED_KEYS),
    "smollm3": lambda: causal(
        "smollm3", head_dim=None, attention_bias=True, no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=4
    ),
    "ministral3": lambda: causal("ministral3", head_dim=16),
    "granite": lambda: causal(
        "granite",
        head_dim=None,
        embedding_multiplier=2.0,
        logits_scaling=1.5,
        residual_multiplier=0.6,
        attention_multiplier=0.3,
    ),
    "gemma": lambda: causal("gemma"),
    "glm4": lambda: causal("glm4"),
    "starcoder2": lambda: causal("starcoder2", head_dim=None),
    "nemotron": lambda: causal("nemotron"),
    "exaone4": lambda: causal("exaone4", head_dim=None, **SLIDING),
    "seed_oss": lambda: causal("seed_oss", head_dim=16, attention_out_bias=True),
    "hunyuan_v1_dense": lambda: causal("hunyuan_v1_dense", attention_bias=True),
    "ernie4_5": lambda: causal("ernie4_5", head_dim=16, use_bias=True),
    "mixtral": lambda: causal("mixtral", **EXPERTS),
    "qwen3_moe": lambda: causal("qwen3_moe", **EXPERTS, norm_topk_prob=True),
    "qwen2_moe": lambda: causal("qwen2_moe", **EXPERTS, shared_expert_intermediate_size=24),
    "olmoe": lambda: causal("olmoe", **EXPERTS, head_dim=None),
    "gpt_oss": lambda: causal("gpt_oss", **EXPERTS | SLIDING),
    # The first layer has no experts, and the second has two groups of experts and two shared ones.
    "glm4_moe": lambda: causal(
        "glm4_moe",
        **EXPERTS | {"num_experts": None},
        n_routed_experts=8,
        n_shared_experts=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        use_qk_norm=True,
        routed_scaling_factor=1.5,
    ),
    "llama_classifier": lambda: decoder_classifier("llama"),
    "gpt2": gpt2,
    "gpt2_classifier": lambda: gpt2(AutoModelForSequenceClassification, num_labels=3),
    "opt": opt,
    "gpt_neox": lambda: causal("gpt_neox"),
    "t5": lambda: encoder_decoder("t5"),
    "t5_gated": lambda: encoder_decoder("t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda: encoder_decoder("mt5"),
    "bart": bart,
    "bert": lambda: classifier("bert"),
    "roberta": lambda: classifier("roberta"),
    "distilbert": distilbert,
    "xlm-roberta": lambda: classifier("xlm-roberta"),
    "electra": lambda: classifier("electra", embedding_size=16),
    "modernbert": lambda: classifier("modernbert", **MODERNBERT),
    "deberta-v2": deberta,
    "deberta-v2_conv": deberta_with_convolution,
    "mbart": lambda: bart("mbart"),
    "pegasus": lambda: bart("pegasus", scale_embedding=True),
    "m2m_100": lambda: bart("m2m_100"),
    "umt5": lambda: encoder_decoder("umt5"),
    "t5gemma": t5gemma,
    "marian": lambda: bart("marian", scale_embedding=True, init_std=0.05),
}
