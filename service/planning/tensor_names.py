"""Which tensors of a family become smaller with which unit: pure data, one row for each `model_type`.

The service's view of `worker.slimming.architectures`, by names in files where that one has modules; a test holds the
two together by planning every family and slimming it.
"""

from dataclasses import dataclass, replace

from service.contract.options import Unit

LINEAR = r"\.(weight|bias)"


@dataclass(frozen=True)
class Shrinking:
    """Tensors of a layer, as a pattern of their path there, and the dimension that becomes smaller with a unit."""

    unit: Unit
    pattern: str
    dim: int


@dataclass(frozen=True)
class StackNames:
    """Tensors of a stack read `...{layers}.{index}.{path}`. The first row of a unit shows how many there are."""

    name: str
    layers: str
    shrinking: tuple[Shrinking, ...]
    bias: str = ""  # config field that asks for biases in the feed-forward modules, which the repair `bias` sets


@dataclass(frozen=True)
class FamilyNames:
    """Config fields have the names of the family."""

    stacks: tuple[StackNames, ...]
    heads: str = "num_attention_heads"
    key_value_heads: str = "num_key_value_heads"
    head_size: str = "head_dim"
    hidden_size: str = "hidden_size"
    head_counts_divide: tuple[str, ...] = ()  # where one of these fields is set, heads must divide the hidden size
    tied_by_default: bool = False
    tied: tuple[str, ...] = ("lm_head.weight",)  # repeat the input embedding where the config ties the two
    repeated: tuple[str, ...] = ()  # repeat it always


def _ffn(reading: str, writing: str) -> tuple[Shrinking, ...]:
    """Columns of the weight that reads neurons, rows of those that write them."""
    return (Shrinking(Unit.ffn, rf"{reading}\.weight", 1), Shrinking(Unit.ffn, writing + LINEAR, 0))


def _heads(output: str, others: str, unit: Unit = Unit.heads) -> tuple[Shrinking, ...]:
    return (Shrinking(unit, rf"{output}\.weight", 1), Shrinking(unit, others + LINEAR, 0))


HEADS = _heads(r"self_attn\.o_proj", r"self_attn\.[qkv]_proj")
GATED = StackNames("decoder", "layers", _ffn(r"mlp\.down_proj", r"mlp\.(gate|up)_proj") + HEADS)
FUSED = StackNames(
    "decoder",
    "layers",
    _ffn(r"mlp\.down_proj", r"mlp\.gate_up_proj") + _heads(r"self_attn\.o_proj", r"self_attn\.qkv_proj"),
)
GPT2 = StackNames(
    "decoder",
    "h",
    (
        Shrinking(Unit.ffn, r"mlp\.c_proj\.weight", 0),
        Shrinking(Unit.ffn, r"mlp\.c_fc\.weight", 1),
        Shrinking(Unit.ffn, r"mlp\.c_fc\.bias", 0),
    ),
)
NEOX = StackNames("decoder", "layers", _ffn(r"mlp\.dense_4h_to_h", r"mlp\.dense_h_to_4h"))
BERT = StackNames("encoder", "encoder.layer", _ffn(r"output\.dense", r"intermediate\.dense"))
DISTILBERT = StackNames("encoder", "transformer.layer", _ffn(r"ffn\.lin2", r"ffn\.lin1"))
T5_ATTENTION = (r"layer\.\d\.(SelfAttention|EncDecAttention)\.o", r"layer\.\d\.(SelfAttention|EncDecAttention)\.[qkv]")
T5_SHRINKING = (
    *_ffn(r"layer\.\d\.DenseReluDense\.wo", r"layer\.\d\.DenseReluDense\.wi(_\d)?"),
    *_heads(*T5_ATTENTION),
    Shrinking(Unit.heads, r"layer\.0\.SelfAttention\.relative_attention_bias\.weight", 1),
    *_heads(*T5_ATTENTION, unit=Unit.head_dims),
)
EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
ENCODER = FamilyNames((BERT,), tied=())

LLAMA = FamilyNames((replace(GATED, bias="mlp_bias"),), head_counts_divide=("attention_bias", "mlp_bias"))
MISTRAL = FamilyNames((GATED,))
GEMMA = FamilyNames((GATED,), head_counts_divide=("hidden_size",), tied_by_default=True)
T5 = FamilyNames(
    (StackNames("encoder", "encoder.block", T5_SHRINKING), StackNames("decoder", "decoder.block", T5_SHRINKING)),
    heads="num_heads",
    key_value_heads="num_heads",
    head_size="d_kv",
    hidden_size="d_model",
    tied_by_default=True,
    repeated=EMBEDDINGS,
)

FAMILY_NAMES: dict[str, FamilyNames] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": MISTRAL,
    "qwen3": MISTRAL,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": FamilyNames((FUSED,)),
    "gpt2": FamilyNames((GPT2,), heads="n_head", hidden_size="n_embd", tied_by_default=True),
    "opt": FamilyNames((StackNames("decoder", "decoder.layers", _ffn("fc2", "fc1")),), tied_by_default=True),
    "gpt_neox": FamilyNames((NEOX,), tied=("embed_out.weight",)),
    "t5": T5,
    "mt5": T5,
    "bart": FamilyNames(
        (
            StackNames("encoder", "encoder.layers", _ffn("fc2", "fc1")),
            StackNames("decoder", "decoder.layers", _ffn("fc2", "fc1")),
        ),
        heads="decoder_attention_heads",
        hidden_size="d_model",
        tied_by_default=True,
        repeated=EMBEDDINGS,
    ),
    "bert": ENCODER,
    "roberta": ENCODER,
    "distilbert": FamilyNames((DISTILBERT,), heads="n_heads", hidden_size="dim", tied=()),
}
