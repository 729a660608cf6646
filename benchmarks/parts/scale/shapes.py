"""Random models of given shapes, and random rows for them."""

from dataclasses import dataclass, replace

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from worker.slimming.scoring.objectives import Batch

LABELS = 2


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama, and of the rows that it reads."""

    hidden: int = 256
    width: int = 768
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 4
    vocabulary: int = 512
    rows: int = 16
    length: int = 64
    tokens_per_batch: int = 512

    def with_(self, **changes: int) -> "Shape":
        """The same shape with other sizes."""
        return replace(self, **changes)


SHAPES = {
    "135M": Shape(576, 1536, 30, 9, 3, 49152, rows=4),  # SmolLM2-135M
    "360M": Shape(960, 2560, 32, 15, 5, 49152, rows=4),  # SmolLM2-360M
    "1.1B": Shape(2048, 5632, 22, 32, 4, 32000, rows=4),  # TinyLlama
    "8B": Shape(4096, 14336, 32, 32, 8, 128256, rows=64, tokens_per_batch=4096),  # Llama 3
}
ON_GPU = frozenset({"8B"})


def model(shape: Shape, device: torch.device) -> PreTrainedModel:
    """A model with normal weights, float32 on a CPU and bfloat16 on a GPU; without the time of its usual start."""
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=max(2048, shape.length),
        tie_word_embeddings=True,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
    )
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    made.to_empty(device=device)
    made.tie_weights()
    draw = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.02, generator=draw) if parameter.dim() > 1 else parameter.fill_(1.0)
        # `to_empty` also empties the frequencies of the rotary positions.
        rotary = type(made.model.rotary_emb)(config=config).to(device)
    made.model.rotary_emb = rotary
    made.eval()
    return made


def batches(shape: Shape, device: torch.device) -> list[Batch]:
    """Random rows of one length with two label words, in batches of at most `tokens_per_batch` tokens."""
    draw = torch.Generator().manual_seed(1)
    size = max(1, shape.tokens_per_batch // shape.length)
    starts = range(0, shape.rows, size)
    return [_batch(shape, start, min(size, shape.rows - start), draw).to(device) for start in starts]


def _batch(shape: Shape, first: int, count: int, draw: torch.Generator) -> Batch:
    tokens_BT = torch.randint(LABELS, shape.vocabulary, (count, shape.length), generator=draw)
    mask_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    example_B = torch.arange(count)
    return Batch(
        inputs={"input_ids": tokens_BT, "attention_mask": mask_BT.long()},
        masks={"decoder": mask_BT},
        example_B=example_B,
        row_P=example_B,
        position_P=torch.full((count,), shape.length - 1),
        place_M=example_B.repeat_interleave(LABELS),
        token_M=torch.arange(LABELS).repeat(count),
        question_M=example_B.repeat_interleave(LABELS),
        label_M=torch.arange(LABELS).repeat(count),
        right_Q=torch.randint(0, LABELS, (count,), generator=draw),
        example_Q=example_B,
        index_E=torch.arange(first, first + count),
        num_labels=LABELS,
    )
