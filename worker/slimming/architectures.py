"""The modules of a model that hold its units: one row for each `model_type`.

Paths of modules are relative to a layer, paths of layer lists to the model with its task head. Sizes are named by the
config fields from which stock transformers builds the modules; a cut changes the values of these fields.
`service.models.families.table` describes the same families for the API.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward block of a layer. Its neurons are rows of the `expand` weights and columns of `contract`."""

    expand: tuple[str, ...]
    contract: str
    width: str  # config field
    expand_gated: tuple[str, ...] = ()  # replaces `expand` where the config says `is_gated_act`
    fused: bool = False  # gate and up projection are one matrix: neuron j has the rows j and j + width
    interleaved: bool = False  # in that matrix neuron j has the rows 2 j and 2 j + 1 instead
    transposed: bool = False  # weights are stored (in, out)
    bias: str = ""  # config field that gives every matrix of the block a bias, if stock code has such a field
    blocks: str = ""  # config field: the block is this many blocks of `width` neurons side by side
    added: bool = True  # whether its output is added to the residual stream as it is, without a gate of each token


@dataclass(frozen=True)
class Attention:
    """The attention of a layer, for families whose stock config can hold fewer heads.

    Heads are rows of `query`, `key` and `value` and columns of `output`.
    """

    query: str
    key: str
    value: str
    output: str
    heads: str  # config field
    key_value_heads: str  # config field; query heads that share a key-value head are removed together
    head_size: str  # config field
    prefix: str = ""  # of the unit's name: the decoder of an encoder-decoder has two kinds of attention
    fused: bool = False  # the three projections are one matrix: all query rows, then all key rows, then all value rows
    divides_where: tuple[str, ...] = ()  # config fields: if one is set, the head count must divide the hidden size
    position_bias: str = ""  # embedding whose column i belongs to head i
    shares_position_bias: bool = True  # whether that of the first layer is the one of every layer
    free_size: bool = False  # heads may keep different dimensions, if each keeps as many


@dataclass(frozen=True)
class Experts:
    """The experts of a layer and the router that sends each token to some of them.

    The parameters of both modules have an entry for each expert along their first dimension. The first module is called
    with the hidden states of all tokens, the numbers of the experts of each token, and their gate weights.
    """

    experts: str
    router: str
    count: str  # config field
    neurons: FeedForward  # of each expert; the matrices of all are parameters of the module `experts`
    per_token: str = "num_experts_per_tok"  # config field; no more than the experts that stay
    norm: str = "post_attention_layernorm"  # which reads the residual stream before the experts add to it
    shared: FeedForward | None = None  # the block of the experts that every token is sent to; they are not removed
    # Config fields: the experts form so many groups of equal size, and a token is sent to experts of so many of them.
    groups: str = ""
    chosen_groups: str = ""
    buffers: tuple[str, ...] = ()  # of the router: tensors with an entry for each expert that are no parameters


@dataclass(frozen=True)
class Stack:
    """A list of layers of one kind. Its name is also that of its mask in a batch.

    A layer adds the outputs of its attention and feed-forward block to the residual stream. `stream` says where the
    stream after these additions can be observed: the input of this module of the layer; "" means the output of the
    layer; None means nowhere, since the outputs are normalised before they are added. `added_times` names the config
    field by which the outputs are multiplied before.
    """

    name: str
    layers: str
    layer_count: str  # config field
    feed_forward: FeedForward
    attention: tuple[Attention, ...] = ()  # empty: a stock config cannot hold fewer heads
    stream: str | None = ""
    stream_unless: tuple[str, str] | None = None  # a config field, and the value of `stream` if that field is false
    after_first: str = ""  # path of a module that, where the model has it, follows the first layer alone
    added_times: str = ""
    removable: bool = True  # whether the stock class computes with any of the layers alone
    part: str = ""  # the part of the model's config that holds the fields of the stack, where it is a config of its own
    experts: Experts | None = None  # of the layers that have the module with the experts

    def stream_behind(self, config: object) -> str | None:
        """`stream` of a model with this config."""
        field, otherwise = self.stream_unless or ("", "")
        return otherwise if field and not getattr(config, field) else self.stream

    def field(self, name: str) -> str:
        """The path in the model's config of a field of the stack."""
        return f"{self.part}.{name}" if self.part else name

    def config_in(self, config: Any) -> Any:
        """The config that holds the fields of the stack."""
        return getattr(config, self.part) if self.part else config


@dataclass(frozen=True)
class Architecture:
    """The stacks of layers of a family, the encoder first."""

    stacks: tuple[Stack, ...]


GATED = FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
GATED_WITH_BIAS = replace(GATED, bias="mlp_bias")
UNGATED_WITH_BIAS = FeedForward(("mlp.up_proj",), "mlp.down_proj", "intermediate_size", bias="mlp_bias")
FUSED = FeedForward(("mlp.gate_up_proj",), "mlp.down_proj", "intermediate_size", fused=True)
BERT_LIKE = FeedForward(("intermediate.dense",), "output.dense", "intermediate_size")

GROUPED_QUERIES = Attention(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    heads="num_attention_heads",
    key_value_heads="num_key_value_heads",
    head_size="head_dim",
)
FUSED_QUERIES = replace(
    GROUPED_QUERIES, query="self_attn.qkv_proj", key="self_attn.qkv_proj", value="self_attn.qkv_proj", fused=True
)
# With biases only. Without them a Llama with any head count is written as the equal Mistral: see
# worker/checkpoints/model_classes/llama_as_mistral.py.
LLAMA_QUERIES = replace(GROUPED_QUERIES, divides_where=("attention_bias", "mlp_bias"))
GEMMA_QUERIES = replace(GROUPED_QUERIES, divides_where=("hidden_size",))


def _stack(
    name: str,
    layers: str,
    feed_forward: FeedForward,
    *attention: Attention,
    count: str = "num_hidden_layers",
    stream: str | None = "",
    stream_unless: tuple[str, str] | None = None,
    after_first: str = "",
    added_times: str = "",
    part: str = "",
) -> Stack:
    stack = Stack(name, layers, count, feed_forward, attention, stream, stream_unless, after_first, added_times)
    return replace(stack, part=part)


_decoder, _encoder = partial(_stack, "decoder"), partial(_stack, "encoder")


def _t5_feed_forward(block: str) -> FeedForward:
    # T5 v1.0 has one expanding matrix, v1.1 and Flan-T5 have two; the model_type is the same.
    return FeedForward(
        expand=(f"{block}.wi",),
        expand_gated=(f"{block}.wi_0", f"{block}.wi_1"),
        contract=f"{block}.wo",
        width="d_ff",
    )


def _t5_attention(block: str, prefix: str = "", *, shares_position_bias: bool = True) -> Attention:
    return Attention(
        query=f"{block}.q",
        key=f"{block}.k",
        value=f"{block}.v",
        output=f"{block}.o",
        heads="num_heads",
        key_value_heads="num_heads",
        head_size="d_kv",
        prefix=prefix,
        position_bias="" if prefix else f"{block}.relative_attention_bias",
        shares_position_bias=shares_position_bias,
        free_size=True,
    )


def _expert_neurons(width: str) -> FeedForward:
    """The neurons of each of the experts whose matrices are parameters of one module."""
    return FeedForward(("mlp.experts",), "mlp.experts", width, fused=True)


def _routed(experts: Experts, *attention: Attention, dense: FeedForward | None = None) -> Architecture:
    return Architecture((replace(_decoder("model.layers", dense or experts.neurons, *attention), experts=experts),))


def _shared(block: str, width: str, blocks: str = "", *, added: bool = True) -> FeedForward:
    """The block of the experts that every token is sent to."""
    matrices = (f"mlp.{block}.gate_proj", f"mlp.{block}.up_proj")
    return FeedForward(matrices, f"mlp.{block}.down_proj", width, blocks=blocks, added=added)


QWEN_EXPERTS = Experts("mlp.experts", "mlp.gate", "num_experts", _expert_neurons("moe_intermediate_size"))
MIXTRAL_EXPERTS = Experts("mlp.experts", "mlp.gate", "num_local_experts", _expert_neurons("intermediate_size"))

LLAMA = Architecture((_decoder("model.layers", GATED_WITH_BIAS, LLAMA_QUERIES),))
MISTRAL = Architecture((_decoder("model.layers", GATED, GROUPED_QUERIES),))
T5GEMMA_CROSS = replace(
    GEMMA_QUERIES,
    query="cross_attn.q_proj",
    key="cross_attn.k_proj",
    value="cross_attn.v_proj",
    output="cross_attn.o_proj",
    prefix="cross_",
)
T5GEMMA = Architecture(
    (
        _encoder("model.encoder.layers", GATED, GEMMA_QUERIES, stream=None, part="encoder"),
        _decoder("model.decoder.layers", GATED, GEMMA_QUERIES, T5GEMMA_CROSS, stream=None, part="decoder"),
    )
)
GEMMA = Architecture((_decoder("model.layers", GATED, GEMMA_QUERIES, stream=None),))


def _t5(*, shares_position_bias: bool = True) -> Architecture:
    own = partial(_t5_attention, "layer.0.SelfAttention", shares_position_bias=shares_position_bias)
    return Architecture(
        (
            _encoder("encoder.block", _t5_feed_forward("layer.1.DenseReluDense"), own(), count="num_layers"),
            _decoder(
                "decoder.block",
                _t5_feed_forward("layer.2.DenseReluDense"),
                own(),
                _t5_attention("layer.1.EncDecAttention", prefix="cross_"),
                count="num_decoder_layers",
            ),
        )
    )


T5 = _t5()
GPT2_FEED_FORWARD = FeedForward(("mlp.c_fc",), "mlp.c_proj", "n_inner", transposed=True)
NEOX_FEED_FORWARD = FeedForward(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "intermediate_size")

OPT = Architecture(
    (
        _decoder(
            "model.decoder.layers",
            FeedForward(("fc1",), "fc2", "ffn_dim"),
            stream_unless=("do_layer_norm_before", "final_layer_norm"),
        ),
    )
)


def _bart(stream: str) -> Architecture:
    encoder, decoder = (FeedForward(("fc1",), "fc2", f"{name}_ffn_dim") for name in ("encoder", "decoder"))
    return Architecture(
        (
            _encoder("model.encoder.layers", encoder, count="encoder_layers", stream=stream),
            _decoder("model.decoder.layers", decoder, count="decoder_layers", stream=stream),
        )
    )


BART = _bart("final_layer_norm")
NORMED_BEFORE = _bart("")  # as BART, with each norm in front of its block
DISTILBERT = Architecture(
    (
        _encoder(
            "distilbert.transformer.layer",
            FeedForward(("ffn.lin1",), "ffn.lin2", "hidden_dim"),
            count="n_layers",
            stream="output_layer_norm",
        ),
    )
)

MODERNBERT_FEED_FORWARD = FeedForward(("mlp.Wi",), "mlp.Wo", "intermediate_size", fused=True, bias="mlp_bias")
DEBERTA = Architecture(
    (_encoder("deberta.encoder.layer", BERT_LIKE, stream="output.LayerNorm", after_first="deberta.encoder.conv"),)
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": MISTRAL,
    "qwen3": MISTRAL,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": Architecture((_decoder("model.layers", FUSED, FUSED_QUERIES),)),
    "olmo2": Architecture((_decoder("model.layers", GATED, stream=None),)),
    "olmo3": Architecture((_decoder("model.layers", GATED, stream=None),)),
    "qwen3_5_text": Architecture((replace(_decoder("model.layers", GATED), removable=False),)),
    "gemma4_text": Architecture((replace(_decoder("model.layers", GATED, stream=None), removable=False),)),
    "smollm3": Architecture((_decoder("model.layers", GATED_WITH_BIAS, GROUPED_QUERIES),)),
    "ministral3": MISTRAL,
    "granite": Architecture(
        (_decoder("model.layers", GATED_WITH_BIAS, GROUPED_QUERIES, added_times="residual_multiplier"),)
    ),
    "gemma": MISTRAL,
    "glm4": Architecture((_decoder("model.layers", FUSED, GROUPED_QUERIES, stream=None),)),
    "starcoder2": Architecture(
        (_decoder("model.layers", FeedForward(("mlp.c_fc",), "mlp.c_proj", "intermediate_size"), GROUPED_QUERIES),)
    ),
    "nemotron": Architecture((_decoder("model.layers", UNGATED_WITH_BIAS, GROUPED_QUERIES),)),
    "exaone4": Architecture((_decoder("model.layers", GATED, GROUPED_QUERIES, stream=None),)),
    "seed_oss": Architecture((_decoder("model.layers", GATED_WITH_BIAS, GROUPED_QUERIES),)),
    "hunyuan_v1_dense": MISTRAL,
    "ernie4_5": MISTRAL,
    "mixtral": _routed(MIXTRAL_EXPERTS, GROUPED_QUERIES),
    "qwen3_moe": _routed(QWEN_EXPERTS, GROUPED_QUERIES),
    "qwen2_moe": _routed(
        replace(QWEN_EXPERTS, shared=_shared("shared_expert", "shared_expert_intermediate_size", added=False))
    ),
    "olmoe": _routed(replace(QWEN_EXPERTS, neurons=_expert_neurons("intermediate_size"))),
    "gpt_oss": _routed(
        replace(
            MIXTRAL_EXPERTS,
            router="mlp.router",
            neurons=replace(_expert_neurons("intermediate_size"), interleaved=True, transposed=True),
        )
    ),
    "glm4_moe": _routed(
        replace(
            QWEN_EXPERTS,
            count="n_routed_experts",
            shared=_shared("shared_experts", "moe_intermediate_size", "n_shared_experts"),
            groups="n_group",
            chosen_groups="topk_group",
            buffers=("e_score_correction_bias",),
        ),
        GROUPED_QUERIES,
        dense=GATED,
    ),
    "gpt2": Architecture((_decoder("transformer.h", GPT2_FEED_FORWARD, count="n_layer"),)),
    "opt": OPT,
    "gpt_neox": Architecture((_decoder("gpt_neox.layers", NEOX_FEED_FORWARD),)),
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "bert": Architecture((_encoder("bert.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "roberta": Architecture((_encoder("roberta.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "distilbert": DISTILBERT,
    "xlm-roberta": Architecture((_encoder("roberta.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "electra": Architecture((_encoder("electra.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "modernbert": Architecture((_encoder("model.layers", MODERNBERT_FEED_FORWARD),)),
    "deberta-v2": DEBERTA,
    "mbart": NORMED_BEFORE,
    "pegasus": NORMED_BEFORE,
    "m2m_100": NORMED_BEFORE,
    "marian": BART,
    "umt5": _t5(shares_position_bias=False),
    "t5gemma": T5GEMMA,
}


def architecture_of(model: Any) -> Architecture:
    """Where the modules of a model of transformers hold its units.

    A model without a head has the modules of the table without the prefix that stands for it in the model with one.
    """
    architecture = ARCHITECTURES[model.config.model_type]
    if model.base_model is not model:
        return architecture
    prefix = f"{model.base_model_prefix}."
    return Architecture(
        tuple(
            replace(
                stack,
                layers=stack.layers.removeprefix(prefix),
                after_first=stack.after_first.removeprefix(prefix),
            )
            for stack in architecture.stacks
        )
    )
