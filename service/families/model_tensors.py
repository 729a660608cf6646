"""The tensors of the models of a family, one row for each `model_type`: what a checkpoint must hold, and what it may.

A row names modules. `{q,k}_proj` stands for two of them, and "" for the layer itself. Each has a `weight`, and a `bias`
where the row says so.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

from service.families import gemma4

Config = Mapping[str, Any]


def always(config: Config) -> bool:
    """The condition of a module or a bias that every model of the family has."""
    return True


def never(config: Config) -> bool:
    """The condition of a bias that no model of the family has."""
    return False


def every_layer(config: Config, layer: int) -> bool:
    """The condition of modules that all layers have."""
    return True


def field(name: str, default: bool = False) -> Callable[[Config], bool]:
    """The condition that a field of config.json is set; `default` where config.json does not have it."""
    return lambda config: bool(config.get(name, default))


@dataclass(frozen=True)
class Modules:
    """Modules of a model, and where they and their biases are present."""

    paths: str
    bias: Callable[[Config], bool] = never
    where: Callable[[Config], bool] = always
    first_layer: bool = False  # whether the first layer alone has them
    later_layers: bool = False  # whether all layers but the first have them
    kind: str = ""  # the type of the layers that have them, if not all do
    parameters: tuple[str, ...] = ("weight",)
    in_layer: Callable[[Config, int], bool] = every_layer  # whether the layer with an index has them

    def tensors(self, config: Config) -> list[str]:
        """The names of the tensors of the modules."""
        if not self.where(config):
            return []
        leaves = [*self.parameters, "bias"] if self.bias(config) else self.parameters
        return [f"{path}.{leaf}" if path else leaf for path in _expanded(self.paths) for leaf in leaves]

    def are_in(self, index: int, kind: str, config: Config) -> bool:
        """Whether the layer with this index and of this type has the modules."""
        is_place = not (self.first_layer if index else self.later_layers) and self.kind in ("", kind)
        return is_place and self.in_layer(config, index)


@dataclass(frozen=True)
class ModelTensors:
    """The modules of a model: outside its layers, and in each layer of its stacks."""

    outside: tuple[Modules, ...]
    layers: Mapping[str, tuple[Modules, ...]]  # path of the layers -> their modules
    prefix: str = ""  # of the model without its head; checkpoints of that alone leave it out
    token_head: tuple[Modules, ...] | None = None  # None: the head for sequences serves tokens as well
    may_hold: str = r"(?!)"  # regular expression: further tensors that are used where they are there

    def with_score(self) -> Self:
        """The tensors of a decoder with a classification head in place of that over the vocabulary."""
        inside = tuple(modules for modules in self.outside if modules.paths.startswith(self.prefix))
        return replace(self, outside=(*inside, Modules("score")))

    def without_head(self) -> Self:
        """The tensors of an encoder without a head. A pooler behind the last layer is used where it is there."""
        pooler = f"{self.prefix}pooler."
        inside = tuple(
            replace(modules, paths=path)
            for modules in self.outside
            for path in _expanded(modules.paths)
            if path.startswith(self.prefix) and not path.startswith(pooler)
        )
        return replace(self, outside=inside, may_hold=rf"{re.escape(pooler)}dense\.(weight|bias)")

    def with_token_head(self) -> Self:
        """The tensors of an encoder with a head for tokens in place of that for sequences."""
        if self.token_head is None:
            return self
        inside = tuple(modules for modules in self.outside if modules.paths.startswith(self.prefix))
        return replace(self, outside=(*inside, *self.token_head))

    @property
    def heads(self) -> tuple[str, ...]:
        """The paths of the modules of the head."""
        paths = (path for modules in self.outside for path in _expanded(modules.paths))
        return tuple(path for path in paths if not path.startswith(self.prefix))

    def names(self, config: Config, counts: Mapping[str, int]) -> set[str]:
        """The names of all tensors of a model whose stacks have these numbers of layers."""
        found = {name for modules in self.outside for name in modules.tensors(config)}
        for path, rows in self.layers.items():
            kinds = layer_kinds(config, counts[path])
            for index, modules in product(range(counts[path]), rows):
                if modules.are_in(index, kinds[index], config):
                    found |= {f"{path}.{index}.{name}" for name in modules.tensors(config)}
        return found

    def full_name(self, name: str, has_prefix: bool) -> str:
        """The name of a tensor in the model with its head; `has_prefix`: whether the checkpoint's names have one."""
        return name if has_prefix or name.startswith(self.heads) else self.prefix + name


def layer_kinds(config: Config, count: int) -> list[str]:
    """The type of each layer: as `layer_types` says, else every fourth one, or as many as config.json says, is of
    full attention."""
    types, every = config.get("layer_types"), config.get("full_attention_interval", 4)
    if isinstance(types, list) and len(types) >= count:
        return [str(kind) for kind in types]
    every = every if type(every) is int and every > 0 else 4
    return ["full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(count)]


def _expanded(paths: str) -> Iterator[str]:
    """The paths that braces stand for."""
    parts = [part.split(",") for part in re.split(r"[{}]", paths)]
    yield from ("".join(chosen) for chosen in product(*parts))


# --- decoders ------------------------------------------------------------------------------------------------------

EMBEDDING = Modules("model.embed_tokens")
GATED_OUTSIDE = (EMBEDDING, Modules("model.norm"), Modules("lm_head"))
GATED_BLOCK = Modules("mlp.{gate,up,down}_proj")
GATED_WITH_BIAS = Modules("mlp.{gate,up,down}_proj", field("mlp_bias"))
ATTENTION_BIAS = field("attention_bias")
QUERIES = Modules("self_attn.{q,k,v,o}_proj", ATTENTION_BIAS)
QUERY_NORMS = Modules("self_attn.{q,k}_norm")
NORMS = Modules("{input,post_attention}_layernorm")
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

# --- encoder-decoders ----------------------------------------------------------------------------------------------


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

# --- encoders ------------------------------------------------------------------------------------------------------


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

MODEL_TENSORS: dict[str, ModelTensors] = {
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
    "gemma4_text": GEMMA4,
    "gpt2": GPT2,
    "opt": OPT,
    "gpt_neox": NEOX,
    "t5": _t5("relu"),
    "mt5": _t5("gated-gelu"),
    "bart": _bart(POSITIONS, EMBEDDING_NORMS),
    "bert": _bert("bert.", "{bert.pooler.dense,classifier}"),
    "roberta": _bert("roberta.", "classifier.{dense,out_proj}"),
    "distilbert": DISTILBERT,
    "xlm-roberta": _bert("roberta.", "classifier.{dense,out_proj}"),
    "electra": ELECTRA,
    "modernbert": MODERNBERT,
    "deberta-v2": DEBERTA,
    "mbart": _bart(POSITIONS, EMBEDDING_NORMS, LAST_NORMS),
    "pegasus": _bart(POSITIONS, LAST_NORMS),
    "m2m_100": _bart(LAST_NORMS),
    "marian": _bart(),
    "umt5": _t5("gated-gelu", shares_position_bias=False),
    "t5gemma": T5GEMMA,
}
