"""The tensors of the decoders: one row for each `model_type`."""

from dataclasses import replace

from service.models.tensors import gemma4
from service.models.tensors.dense_layers import has_experts, is_dense
from service.models.tensors.modules import ATTENTION_BIAS, GATED_BLOCK, ModelTensors, Modules, always, field
from service.models.tensors.names import CORRECTION

EMBEDDING = Modules("model.embed_tokens")
GATED_OUTSIDE = (EMBEDDING, Modules("model.norm"), Modules("lm_head"))
GATED_WITH_BIAS = Modules("mlp.{gate,up,down}_proj", field("mlp_bias"))
QUERIES = Modules("self_attn.{q,k,v,o}_proj", ATTENTION_BIAS)
QUERY_NORMS = Modules("self_attn.{q,k}_norm")
NORMS = Modules("{input,post_attention}_layernorm")
EXPERTS = Modules("mlp.experts", parameters=("gate_up_proj", "down_proj"))
ROUTER = Modules("mlp.gate")
FEED_FORWARD_NORMS = Modules("{pre,post}_feedforward_layernorm")


def _gated(*layer: Modules) -> ModelTensors:
    return ModelTensors(GATED_OUTSIDE, {"model.layers": layer}, "model.")


NORMED_OUTSIDE = (EMBEDDING, Modules("model.norm", always), Modules("lm_head"))
BIASED_NORMS = Modules("{input,post_attention}_layernorm", always)
USE_BIAS = field("use_bias", True)
STARCODER2 = ModelTensors(
    NORMED_OUTSIDE,
    {
        "model.layers": (
            Modules(
                "{self_attn.q_proj,self_attn.k_proj,self_attn.v_proj,self_attn.o_proj,mlp.c_fc,mlp.c_proj}", USE_BIAS
            ),
            BIASED_NORMS,
        )
    },
    "model.",
)
NEMOTRON = ModelTensors(
    NORMED_OUTSIDE,
    {"model.layers": (QUERIES, BIASED_NORMS, Modules("mlp.{up,down}_proj", field("mlp_bias")))},
    "model.",
)
GPT2 = ModelTensors(
    (Modules("transformer.{wte,wpe}"), Modules("transformer.ln_f", always), Modules("lm_head")),
    {"transformer.h": (Modules("{attn.c_attn,attn.c_proj,mlp.c_fc,mlp.c_proj,ln_1,ln_2}", always),)},
    "transformer.",
)
OPT_BIAS, OPT_NORM = field("enable_bias", True), field("layer_norm_elementwise_affine", True)
OPT = ModelTensors(
    (
        Modules("model.decoder.embed_{tokens,positions}"),
        Modules(
            "model.decoder.final_layer_norm",
            OPT_NORM,
            lambda config: (
                OPT_NORM(config)
                and config.get("do_layer_norm_before", True)
                and not config.get("_remove_final_layer_norm", False)
            ),
        ),
        Modules(
            "model.decoder.project_{in,out}",
            where=lambda config: config.get("word_embed_proj_dim") not in (None, config.get("hidden_size")),
        ),
        Modules("lm_head"),
    ),
    {
        "model.decoder.layers": (
            Modules("{self_attn.q_proj,self_attn.k_proj,self_attn.v_proj,self_attn.out_proj,fc1,fc2}", OPT_BIAS),
            Modules("{self_attn,final}_layer_norm", OPT_NORM, OPT_NORM),
        )
    },
    "model.",
)
NEOX = ModelTensors(
    (Modules("gpt_neox.embed_in"), Modules("gpt_neox.final_layer_norm", always), Modules("embed_out")),
    {
        "gpt_neox.layers": (
            Modules("attention.{query_key_value,dense}", field("attention_bias", True)),
            Modules("{mlp.dense_h_to_4h,mlp.dense_4h_to_h,input_layernorm,post_attention_layernorm}", always),
        )
    },
    "gpt_neox.",
)

LAYER_INPUTS = gemma4.has_layer_inputs
GEMMA4 = ModelTensors(
    (
        *GATED_OUTSIDE,
        Modules(
            "model.{embed_tokens_per_layer,per_layer_model_projection,per_layer_projection_norm}", where=LAYER_INPUTS
        ),
    ),
    {
        "model.layers": (
            Modules("self_attn.{q,o}_proj", ATTENTION_BIAS),
            Modules("self_attn.k_proj", ATTENTION_BIAS, in_layer=gemma4.has_keys),
            Modules("self_attn.v_proj", ATTENTION_BIAS, in_layer=gemma4.has_values),
            Modules("self_attn.q_norm"),
            Modules("self_attn.k_norm", in_layer=gemma4.has_keys),
            NORMS,
            FEED_FORWARD_NORMS,
            GATED_BLOCK,
            Modules("{per_layer_input_gate,per_layer_projection,post_per_layer_input_norm}", where=LAYER_INPUTS),
            Modules("", parameters=("layer_scalar",)),
        )
    },
    "model.",
)

DECODERS: dict[str, ModelTensors] = {
    "llama": _gated(QUERIES, NORMS, GATED_WITH_BIAS),
    "mistral": _gated(Modules("self_attn.{q,k,v,o}_proj"), NORMS, GATED_BLOCK),
    "qwen2": _gated(Modules("self_attn.{q,k,v}_proj", always), Modules("self_attn.o_proj"), NORMS, GATED_BLOCK),
    "qwen3": _gated(QUERIES, QUERY_NORMS, NORMS, GATED_BLOCK),
    "gemma2": _gated(QUERIES, NORMS, FEED_FORWARD_NORMS, GATED_BLOCK),
    "gemma3_text": _gated(QUERIES, QUERY_NORMS, NORMS, FEED_FORWARD_NORMS, GATED_BLOCK),
    "phi3": _gated(Modules("self_attn.{qkv,o}_proj"), NORMS, Modules("mlp.{gate_up,down}_proj")),
    "olmo2": _gated(QUERIES, QUERY_NORMS, Modules("post_{attention,feedforward}_layernorm"), GATED_BLOCK),
    "olmo3": _gated(QUERIES, QUERY_NORMS, Modules("post_{attention,feedforward}_layernorm"), GATED_BLOCK),
    "smollm3": _gated(QUERIES, NORMS, GATED_WITH_BIAS),
    "ministral3": _gated(Modules("self_attn.{q,k,v,o}_proj"), NORMS, GATED_BLOCK),
    "granite": _gated(QUERIES, NORMS, GATED_WITH_BIAS),
    "gemma": _gated(QUERIES, NORMS, GATED_BLOCK),
    "glm4": _gated(
        Modules("self_attn.{q,k,v}_proj", field("attention_bias", True)),
        Modules("self_attn.o_proj"),
        NORMS,
        Modules("post_{self_attn,mlp}_layernorm"),
        Modules("mlp.{gate_up,down}_proj"),
    ),
    "starcoder2": STARCODER2,
    "nemotron": NEMOTRON,
    "exaone4": _gated(
        Modules("self_attn.{q,k,v,o}_proj"),
        QUERY_NORMS,
        Modules("post_{attention,feedforward}_layernorm"),
        GATED_BLOCK,
    ),
    "seed_oss": _gated(
        Modules("self_attn.{q,k,v}_proj", field("attention_bias", True)),
        Modules("self_attn.o_proj", field("attention_out_bias")),
        NORMS,
        GATED_WITH_BIAS,
    ),
    "hunyuan_v1_dense": _gated(QUERIES, Modules("self_attn.{query,key}_layernorm"), NORMS, GATED_BLOCK),
    "ernie4_5": _gated(
        Modules("{self_attn.q,self_attn.k,self_attn.v,self_attn.o,mlp.gate,mlp.up,mlp.down}_proj", field("use_bias")),
        NORMS,
    ),
    "qwen3_5_text": _gated(
        Modules("self_attn.{q,k,v,o}_proj", ATTENTION_BIAS, kind="full_attention"),
        Modules("self_attn.{q,k}_norm", kind="full_attention"),
        Modules(
            "linear_attn.{conv1d,norm,out_proj,in_proj_qkv,in_proj_z,in_proj_b,in_proj_a}", kind="linear_attention"
        ),
        Modules("linear_attn", kind="linear_attention", parameters=("A_log", "dt_bias")),
        NORMS,
        GATED_BLOCK,
    ),
    "mixtral": _gated(Modules("self_attn.{q,k,v,o}_proj"), NORMS, EXPERTS, ROUTER),
    "qwen3_moe": _gated(QUERIES, QUERY_NORMS, NORMS, EXPERTS, ROUTER),
    "qwen2_moe": _gated(
        Modules("self_attn.{q,k,v}_proj", field("qkv_bias", True)),
        Modules("self_attn.o_proj"),
        NORMS,
        EXPERTS,
        ROUTER,
        Modules("mlp.shared_expert.{gate,up,down}_proj"),
        Modules("mlp.shared_expert_gate"),
    ),
    "olmoe": _gated(QUERIES, QUERY_NORMS, NORMS, EXPERTS, ROUTER),
    "gpt_oss": _gated(
        Modules("self_attn.{q,k,v,o}_proj", field("attention_bias", True)),
        Modules("self_attn", parameters=("sinks",)),
        NORMS,
        Modules("mlp.experts", parameters=("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")),
        Modules("mlp.router", always),
    ),
    "glm4_moe": _gated(
        Modules("self_attn.{q,k,v}_proj", ATTENTION_BIAS),
        Modules("self_attn.o_proj"),
        Modules("self_attn.{q,k}_norm", where=field("use_qk_norm")),
        NORMS,
        replace(GATED_BLOCK, in_layer=is_dense),
        replace(EXPERTS, in_layer=has_experts),
        Modules("mlp.gate", parameters=("weight", CORRECTION), in_layer=has_experts),
        Modules("mlp.shared_experts.{gate,up,down}_proj", in_layer=has_experts),
    ),
    "gemma4_text": GEMMA4,
    "gpt2": GPT2,
    "opt": OPT,
    "gpt_neox": NEOX,
}
