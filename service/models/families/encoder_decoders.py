"""The encoder-decoders: one row for each `model_type`."""

from dataclasses import replace

from service.contract.options import Unit
from service.models.families.decoders import GATED_FEED_FORWARD, HEAD_SIZE, KEY_VALUE_HEADS, OPT
from service.models.families.family import NO_DIMENSIONS, NO_EXPERTS, NO_HEADS, ModelFamily
from service.models.tensors.names import CheckpointNames, StackNames, UnitTensors, attention, feed_forward

# --- tensors ---------------------------------------------------------------------------------------------------------

PYTHON_TOKENIZER = (
    "its tokenizer reads the files of sentencepiece in Python, and the pieces of a fast tokenizer alone are removed"
)
WITHOUT_PIECES = {Unit.vocabulary: PYTHON_TOKENIZER, **NO_HEADS}
BART_ENCODER = StackNames("encoder", "encoder.layers", feed_forward("fc2", "fc1"))
T5_ATTENTION = (r"layer\.\d\.(SelfAttention|EncDecAttention)\.o", r"layer\.\d\.(SelfAttention|EncDecAttention)\.[qkv]")
T5_BIAS = r"layer\.0\.SelfAttention\.relative_attention_bias\.weight"
T5_TENSORS = (
    *feed_forward(r"layer\.\d\.DenseReluDense\.wo", r"layer\.\d\.DenseReluDense\.wi(_\d)?"),
    *attention(*T5_ATTENTION),
    UnitTensors(Unit.heads, T5_BIAS, 1),
    *attention(*T5_ATTENTION, unit=Unit.head_dims),
)

T5_NAMES = CheckpointNames(
    tuple(StackNames(name, f"{name}.block", T5_TENSORS, moves=T5_BIAS) for name in ("encoder", "decoder")),
    heads="num_heads",
    key_value_heads="num_heads",
    head_size="d_kv",
    hidden_size="d_model",
    positions="",
    embedding="shared.weight",
    tied=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    always_tied=True,
)
UMT5_NAMES = replace(  # each layer has a position bias of its own
    T5_NAMES, stacks=tuple(replace(stack, moves=StackNames.moves) for stack in T5_NAMES.stacks)
)
BART_NAMES = CheckpointNames(
    (BART_ENCODER, OPT),
    heads="decoder_attention_heads",
    hidden_size="d_model",
    embedding="model.shared.weight",
    tied=("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    tied_by_default=True,
)

MARIAN_NAMES = replace(
    BART_NAMES,
    tying_unless=("share_encoder_decoder_embeddings", "model.decoder.embed_tokens.weight", ("lm_head.weight",)),
)

T5GEMMA_TENSORS = GATED_FEED_FORWARD + attention(r"(self|cross)_attn\.o_proj", r"(self|cross)_attn\.[qkv]_proj")
T5GEMMA_NAMES = CheckpointNames(
    tuple(StackNames(part, f"{part}.layers", T5GEMMA_TENSORS, part=part) for part in ("encoder", "decoder")),
    head_counts_divide=("hidden_size",),
    class_defaults={KEY_VALUE_HEADS: 4, HEAD_SIZE: 256},
    nullable=(),
    embedding="model.decoder.embed_tokens.weight",
    tied=("lm_head.out_proj.weight",),
    further_embeddings=("model.encoder.embed_tokens.weight",),
    tied_by_default=True,
)

# --- the rows --------------------------------------------------------------------------------------------------------

ENCODER_DECODERS: tuple[ModelFamily, ...] = (
    ModelFamily(
        "t5",
        "encoder_decoder",
        "T5ForConditionalGeneration",
        T5_NAMES,
        NO_EXPERTS,
        runtimes=("llama.cpp",),
        same_head=("T5WithLMHeadModel",),
    ),
    ModelFamily("mt5", "encoder_decoder", "MT5ForConditionalGeneration", T5_NAMES, NO_EXPERTS, ("llama.cpp",)),
    ModelFamily(
        "bart", "encoder_decoder", "BartForConditionalGeneration", BART_NAMES, NO_HEADS, same_head=("BartModel",)
    ),
    ModelFamily("mbart", "encoder_decoder", "MBartForConditionalGeneration", BART_NAMES, NO_HEADS),
    ModelFamily("pegasus", "encoder_decoder", "PegasusForConditionalGeneration", BART_NAMES, NO_HEADS),
    ModelFamily("m2m_100", "encoder_decoder", "M2M100ForConditionalGeneration", BART_NAMES, WITHOUT_PIECES),
    ModelFamily(
        "marian",
        "encoder_decoder",
        "MarianMTModel",
        MARIAN_NAMES,
        WITHOUT_PIECES,
        own_target_tokens=True,
        writes_no_padding=True,
    ),
    ModelFamily("umt5", "encoder_decoder", "UMT5ForConditionalGeneration", UMT5_NAMES, NO_EXPERTS),
    ModelFamily(
        "t5gemma",
        "encoder_decoder",
        "T5GemmaForConditionalGeneration",
        T5GEMMA_NAMES,
        NO_DIMENSIONS,
        answers_after_bos=True,
    ),
)
