"""Where a family keeps its units: pure data, one row for each `model_type`.

Paths of modules are relative to a layer, paths of layer lists to the model with its task head. A width is the config
field that stock transformers builds the modules from, so it is what a smaller checkpoint has to change.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedForward:
    """The neurons of a block: rows of the `expand` weights, columns of the `contract` weight."""

    expand: tuple[str, ...]
    contract: str
    width: str  # config field
    expand_gated: tuple[str, ...] = ()  # in place of `expand` where the config says `is_gated_act`
    fused: bool = False  # gate and up are one matrix: neuron j is rows j and j + width
    transposed: bool = False  # weights are stored (in, out)


@dataclass(frozen=True)
class Stack:
    """Layers of one make. The name is also that of the stack's mask in a batch."""

    name: str
    layers: str
    feed_forward: FeedForward


@dataclass(frozen=True)
class Architecture:
    stacks: tuple[Stack, ...]


GATED = FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
FUSED = FeedForward(("mlp.gate_up_proj",), "mlp.down_proj", "intermediate_size", fused=True)
BERT_LIKE = FeedForward(("intermediate.dense",), "output.dense", "intermediate_size")

LLAMA = Architecture((Stack("decoder", "model.layers", GATED),))


def _t5_feed_forward(block: str) -> FeedForward:
    # v1.0 has one expanding matrix, v1.1 and Flan two; a Flan checkpoint has the same model_type.
    return FeedForward(
        expand=(f"{block}.wi",),
        expand_gated=(f"{block}.wi_0", f"{block}.wi_1"),
        contract=f"{block}.wo",
        width="d_ff",
    )


T5 = Architecture(
    (
        Stack("encoder", "encoder.block", _t5_feed_forward("layer.1.DenseReluDense")),
        Stack("decoder", "decoder.block", _t5_feed_forward("layer.2.DenseReluDense")),
    )
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "phi3": Architecture((Stack("decoder", "model.layers", FUSED),)),
    "gpt2": Architecture(
        (Stack("decoder", "transformer.h", FeedForward(("mlp.c_fc",), "mlp.c_proj", "n_inner", transposed=True)),)
    ),
    "opt": Architecture((Stack("decoder", "model.decoder.layers", FeedForward(("fc1",), "fc2", "ffn_dim")),)),
    "gpt_neox": Architecture(
        (
            Stack(
                "decoder",
                "gpt_neox.layers",
                FeedForward(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "intermediate_size"),
            ),
        )
    ),
    "t5": T5,
    "mt5": T5,
    "bart": Architecture(
        (
            Stack("encoder", "model.encoder.layers", FeedForward(("fc1",), "fc2", "encoder_ffn_dim")),
            Stack("decoder", "model.decoder.layers", FeedForward(("fc1",), "fc2", "decoder_ffn_dim")),
        )
    ),
    "bert": Architecture((Stack("encoder", "bert.encoder.layer", BERT_LIKE),)),
    "roberta": Architecture((Stack("encoder", "roberta.encoder.layer", BERT_LIKE),)),
    "distilbert": Architecture(
        (Stack("encoder", "distilbert.transformer.layer", FeedForward(("ffn.lin1",), "ffn.lin2", "hidden_dim")),)
    ),
}
