"""The tensors of the encoder-decoders: one row for each `model_type`."""

from collections.abc import Callable

from service.models.tensors.modules import ATTENTION_BIAS, GATED_BLOCK, Config, ModelTensors, Modules, always, field


def _is_gated(default: str) -> Callable[[Config], bool]:
    return lambda config: str(config.get("feed_forward_proj", default)).startswith("gated")


def _t5(default: str, *, shares_position_bias: bool = True) -> ModelTensors:
    gated = _is_gated(default)

    def block(number: int) -> tuple[Modules, ...]:
        path = f"layer.{number}.DenseReluDense"
        return (
            Modules(f"{path}.wi", where=lambda config: not gated(config)),
            Modules(f"{path}.wi_{{0,1}}", where=gated),
            Modules(f"{{{path}.wo,layer.{number}.layer_norm}}"),
        )

    attention = Modules(
        "{layer.0.SelfAttention.q,layer.0.SelfAttention.k,layer.0.SelfAttention.v,layer.0.SelfAttention.o,layer.0.layer_norm}"
    )
    position_bias = Modules("layer.0.SelfAttention.relative_attention_bias", first_layer=shares_position_bias)
    cross = Modules("layer.1.{EncDecAttention.q,EncDecAttention.k,EncDecAttention.v,EncDecAttention.o,layer_norm}")
    return ModelTensors(
        (
            Modules("{shared,encoder.embed_tokens,decoder.embed_tokens,lm_head}"),
            Modules("{en,de}coder.final_layer_norm"),
        ),
        {
            "encoder.block": (attention, position_bias, *block(1)),
            "decoder.block": (attention, position_bias, cross, *block(2)),
        },
    )


BART_LAYER = (
    Modules("{self_attn.q_proj,self_attn.k_proj,self_attn.v_proj,self_attn.out_proj,self_attn_layer_norm}", always),
    Modules("{fc1,fc2,final_layer_norm}", always),
)
BART_CROSS = Modules(
    "{encoder_attn.q_proj,encoder_attn.k_proj,encoder_attn.v_proj,encoder_attn.out_proj,encoder_attn_layer_norm}",
    always,
)
POSITIONS = Modules("model.{encoder,decoder}.embed_positions")
EMBEDDING_NORMS = Modules("model.{encoder,decoder}.layernorm_embedding", always)
LAST_NORMS = Modules("model.{encoder,decoder}.layer_norm", always)
SHARES_EMBEDDINGS = field("share_encoder_decoder_embeddings", True)


def _bart(*outside: Modules) -> ModelTensors:
    return ModelTensors(
        (
            Modules("model.shared", where=SHARES_EMBEDDINGS),
            Modules("{model.encoder.embed_tokens,model.decoder.embed_tokens,lm_head}"),
            *outside,
        ),
        {"model.encoder.layers": BART_LAYER, "model.decoder.layers": (*BART_LAYER, BART_CROSS)},
        "model.",
        may_hold="final_logits_bias",
    )


def _t5gemma_layer(part: str) -> tuple[Modules, ...]:
    """The modules of a layer of the encoder; those of the decoder are more."""

    def has_bias(config: Config) -> bool:
        return ATTENTION_BIAS(config.get(part) or {})

    return (
        Modules("self_attn.{q,k,v,o}_proj", has_bias),
        Modules("cross_attn.{q,k,v,o}_proj", has_bias, lambda config: part == "decoder"),
        Modules("{pre,post}_cross_attn_layernorm", where=lambda config: part == "decoder"),
        Modules("{pre,post}_{self_attn,feedforward}_layernorm"),
        GATED_BLOCK,
    )


T5GEMMA = ModelTensors(
    (Modules("model.{encoder,decoder}.{embed_tokens,norm}"), Modules("lm_head.out_proj")),
    {f"model.{part}.layers": _t5gemma_layer(part) for part in ("encoder", "decoder")},
    "model.",
)

ENCODER_DECODERS: dict[str, ModelTensors] = {
    "t5": _t5("relu"),
    "mt5": _t5("gated-gelu"),
    "bart": _bart(POSITIONS, EMBEDDING_NORMS),
    "mbart": _bart(POSITIONS, EMBEDDING_NORMS, LAST_NORMS),
    "pegasus": _bart(POSITIONS, LAST_NORMS),
    "m2m_100": _bart(LAST_NORMS),
    "marian": _bart(),
    "umt5": _t5("gated-gelu", shares_position_bias=False),
    "t5gemma": T5GEMMA,
}
