"""Where a family keeps its units: pure data, one row for each `model_type`.

Paths of modules are relative to a layer, paths of layer lists to the model with its task head. Sizes are named by the
config fields that stock transformers builds the modules from, since those are what a smaller checkpoint has to change.
"""

from dataclasses import dataclass, replace
from functools import partial


@dataclass(frozen=True)
class FeedForward:
    """The neurons of a block: rows of the `expand` weights, columns of the `contract` weight."""

    expand: tuple[str, ...]
    contract: str
    width: str  # config field
    expand_gated: tuple[str, ...] = ()  # in place of `expand` where the config says `is_gated_act`
    fused: bool = False  # gate and up are one matrix: neuron j is rows j and j + width
    transposed: bool = False  # weights are stored (in, out)
    bias: str = ""  # config field that gives every matrix of the block a bias, where stock code can be asked for one


@dataclass(frozen=True)
class Attention:
    """Heads whose number a stock config can hold: rows of `query`, `key` and `value`, columns of `output`."""

    query: str
    key: str
    value: str
    output: str
    heads: str  # config field
    key_value_heads: str  # config field; a group of heads that share one is cut as a whole
    head_size: str  # config field
    prefix: str = ""  # of the unit in a site: an encoder-decoder's decoder has two kinds of attention
    fused: bool = False  # one matrix: all query rows, then all key rows, then all value rows
    divides_where: tuple[str, ...] = ()  # config fields: where one is set, the head count must divide the hidden size
    position_bias: str = ""  # in the first layer; its column i belongs to head i of every layer
    free_size: bool = False  # stock code lets every head keep other dimensions, if as many


@dataclass(frozen=True)
class Stack:
    """Layers of one make. The name is also that of the stack's mask in a batch.

    A layer adds what `contract` and the attention's `output` write to the residual stream. `stream` is the module of
    the layer whose input is the stream behind them; "": the layer's output is; None: it is to be seen nowhere, since
    what they write is normalised before it is added.
    """

    name: str
    layers: str
    layer_count: str  # config field
    feed_forward: FeedForward
    attention: tuple[Attention, ...] = ()  # empty: stock code derives the head size from the head count
    stream: str | None = ""
    stream_unless: tuple[str, str] | None = None  # a config field, and the `stream` where that is false

    def stream_behind(self, config: object) -> str | None:
        """`stream` for a model with this config."""
        field, otherwise = self.stream_unless or ("", "")
        return otherwise if field and not getattr(config, field) else self.stream


@dataclass(frozen=True)
class Architecture:
    stacks: tuple[Stack, ...]


GATED = FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
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
# Stock Llama refuses other head counts. Without biases it equals a Mistral, which takes any; see
# worker/checkpoints/llama_as_mistral.py.
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
) -> Stack:
    return Stack(name, layers, count, feed_forward, attention, stream, stream_unless)


_decoder, _encoder = partial(_stack, "decoder"), partial(_stack, "encoder")


def _t5_feed_forward(block: str) -> FeedForward:
    # v1.0 has one expanding matrix, v1.1 and Flan two; a Flan checkpoint has the same model_type.
    return FeedForward(
        expand=(f"{block}.wi",),
        expand_gated=(f"{block}.wi_0", f"{block}.wi_1"),
        contract=f"{block}.wo",
        width="d_ff",
    )


def _t5_attention(block: str, prefix: str = "") -> Attention:
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
        free_size=True,
    )


LLAMA = Architecture((_decoder("model.layers", replace(GATED, bias="mlp_bias"), LLAMA_QUERIES),))
MISTRAL = Architecture((_decoder("model.layers", GATED, GROUPED_QUERIES),))
GEMMA = Architecture((_decoder("model.layers", GATED, GEMMA_QUERIES, stream=None),))
T5 = Architecture(
    (
        _encoder(
            "encoder.block",
            _t5_feed_forward("layer.1.DenseReluDense"),
            _t5_attention("layer.0.SelfAttention"),
            count="num_layers",
        ),
        _decoder(
            "decoder.block",
            _t5_feed_forward("layer.2.DenseReluDense"),
            _t5_attention("layer.0.SelfAttention"),
            _t5_attention("layer.1.EncDecAttention", prefix="cross_"),
            count="num_decoder_layers",
        ),
    )
)
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
BART = Architecture(
    (
        _encoder(
            "model.encoder.layers",
            FeedForward(("fc1",), "fc2", "encoder_ffn_dim"),
            count="encoder_layers",
            stream="final_layer_norm",
        ),
        _decoder(
            "model.decoder.layers",
            FeedForward(("fc1",), "fc2", "decoder_ffn_dim"),
            count="decoder_layers",
            stream="final_layer_norm",
        ),
    )
)
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

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": MISTRAL,
    "qwen3": MISTRAL,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": Architecture((_decoder("model.layers", FUSED, FUSED_QUERIES),)),
    "olmo2": Architecture((_decoder("model.layers", GATED, stream=None),)),
    "gpt2": Architecture((_decoder("transformer.h", GPT2_FEED_FORWARD, count="n_layer"),)),
    "opt": OPT,
    "gpt_neox": Architecture((_decoder("gpt_neox.layers", NEOX_FEED_FORWARD),)),
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "bert": Architecture((_encoder("bert.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "roberta": Architecture((_encoder("roberta.encoder.layer", BERT_LIKE, stream="output.LayerNorm"),)),
    "distilbert": DISTILBERT,
}
