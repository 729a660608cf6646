"""The tensors of the encoders: one row for each `model_type`."""

from collections.abc import Callable

from service.models.tensors.modules import ATTENTION_BIAS, Config, ModelTensors, Modules, always, field

TOKEN_HEAD = (Modules("classifier", always),)


def _bert(prefix: str, head: str, *outside: Modules) -> ModelTensors:
    return ModelTensors(
        (
            Modules(f"{prefix}embeddings.{{word,position,token_type}}_embeddings"),
            Modules(f"{prefix}embeddings.LayerNorm", always),
            Modules(head, always),
            *outside,
        ),
        {
            f"{prefix}encoder.layer": (
                Modules("attention.self.{query,key,value}", always),
                Modules("{attention.output.,output.}{dense,LayerNorm}", always),
                Modules("intermediate.dense", always),
            )
        },
        prefix,
        TOKEN_HEAD,
    )


DISTILBERT = ModelTensors(
    (
        Modules("distilbert.embeddings.{word,position}_embeddings"),
        Modules("distilbert.embeddings.LayerNorm", always),
        Modules("{pre_,}classifier", always),
    ),
    {
        "distilbert.transformer.layer": (
            Modules("attention.{q,k,v,out}_lin", always),
            Modules("{ffn.lin1,ffn.lin2,sa_layer_norm,output_layer_norm}", always),
        )
    },
    "distilbert.",
    TOKEN_HEAD,
)

ELECTRA_PROJECTION = Modules(
    "electra.embeddings_project",
    always,
    lambda config: config.get("embedding_size", 128) != config.get("hidden_size", 256),
)
ELECTRA = _bert("electra.", "classifier.{dense,out_proj}", ELECTRA_PROJECTION)

NORM_BIAS = field("norm_bias")
MODERNBERT = ModelTensors(
    (
        Modules("model.embeddings.tok_embeddings"),
        Modules("{model.embeddings.norm,model.final_norm,head.norm}", NORM_BIAS),
        Modules("head.dense", field("classifier_bias")),
        Modules("classifier", always),
    ),
    {
        "model.layers": (
            Modules("attn.{Wqkv,Wo}", ATTENTION_BIAS),
            Modules("mlp.{Wi,Wo}", field("mlp_bias")),
            Modules("mlp_norm", NORM_BIAS),
            Modules("attn_norm", NORM_BIAS, later_layers=True),
        )
    },
    "model.",
)


def has_convolution(config: Config) -> bool:
    """Whether a DeBERTa has a convolution behind its first layer."""
    return bool((config.get("conv_kernel_size") or 0) > 0)


def _has_positions_of(kind: str) -> Callable[[Config], bool]:
    """Whether the attention of a DeBERTa has a projection of its own for relative positions of this kind."""
    return lambda config: (
        bool(config.get("relative_attention", False) and not config.get("share_att_key", False))
        and kind in str(config.get("pos_att_type")).lower()
    )


DEBERTA = ModelTensors(
    (
        Modules("deberta.embeddings.word_embeddings"),
        Modules("deberta.embeddings.position_embeddings", where=field("position_biased_input", True)),
        Modules("deberta.embeddings.token_type_embeddings", where=field("type_vocab_size")),
        Modules(
            "deberta.embeddings.embed_proj",
            where=lambda config: config.get("embedding_size") not in (None, config.get("hidden_size", 1536)),
        ),
        Modules("deberta.encoder.rel_embeddings", where=field("relative_attention")),
        Modules(
            "deberta.encoder.LayerNorm", always, lambda config: "layer_norm" in str(config.get("norm_rel_ebd")).lower()
        ),
        Modules("deberta.encoder.conv.{conv,LayerNorm}", always, has_convolution),
        Modules("deberta.embeddings.LayerNorm", always),
        Modules("{pooler.dense,classifier}", always),
    ),
    {
        "deberta.encoder.layer": (
            Modules("attention.self.{query,key,value}_proj", always),
            Modules("attention.self.pos_key_proj", always, _has_positions_of("c2p")),
            Modules("attention.self.pos_query_proj", always, _has_positions_of("p2c")),
            Modules("{attention.output.,output.}{dense,LayerNorm}", always),
            Modules("intermediate.dense", always),
        )
    },
    "deberta.",
    TOKEN_HEAD,
)

ENCODERS: dict[str, ModelTensors] = {
    "bert": _bert("bert.", "{bert.pooler.dense,classifier}"),
    "roberta": _bert("roberta.", "classifier.{dense,out_proj}"),
    "distilbert": DISTILBERT,
    "xlm-roberta": _bert("roberta.", "classifier.{dense,out_proj}"),
    "electra": ELECTRA,
    "modernbert": MODERNBERT,
    "deberta-v2": DEBERTA,
}
