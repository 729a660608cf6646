"""What a runtime takes from a config in its own way: the sizes with which it loads a family wrongly or not at all.

Each limit is a function of the sizes of a slim model. It gives the reason, with a way out where there is one, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.options import Unit
from service.families.table import Kind

# Family -> its last layer of this many sees the whole text, the others a sliding window.
PATTERNS = {"gemma2": 2, "gemma3_text": 6}
# Family -> the number of layers with which llama.cpp takes a model to be the one with 27 billion parameters.
LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}
DEFAULT_SCALAR = 256  # of `query_pre_attn_scalar`, for both families
MLX_ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class SlimSizes:
    """The sizes of a slim model with one width for all layers of a stack; heads and layers are those of the decoder."""

    family: str
    units: Sequence[Unit]  # that were removed
    widths: Sequence[int]  # feed-forward neurons of each stack
    heads: int
    head_size: int
    layers: int
    hidden_size: int
    config: Mapping[str, Any]  # of the slim model, or of the dense one before there is a slim one
    heads_known: bool = True  # whether it is known how many heads stay; if not, `heads` are those of the dense model
    layers_known: bool = True  # whether it is known which layers stay
    kind: Kind | None = None  # of the model's head, where that is not the family's own

    @property
    def heads_fill_hidden_size(self) -> bool:
        """Whether the size of a head is the hidden size divided by the heads."""
        return self.heads_known and self.heads * self.head_size == self.hidden_size

    @property
    def keeps_pattern(self) -> bool:
        """Whether each layer has the type that its number gives it in the family."""
        every, types = PATTERNS[self.family], self.config.get("layer_types")
        if not self.layers_known:
            return False
        if types is None:
            return bool(self.config.get("sliding_window_pattern", every) == every)
        return list(types) == [_type(number, every) for number in range(len(types))]


Limit = Callable[[SlimSizes], str | None]


def every_nth(layer_types: Sequence[str]) -> int | None:
    """The n for which the layers whose number from 0 is divisible by n see the whole text; None if there is none."""
    numbers = range(len(layer_types))
    for every in range(1, len(layer_types) + 1):
        if list(layer_types) == ["sliding_attention" if number % every else "full_attention" for number in numbers]:
            return every
    return None


def _type(number: int, every: int) -> str:
    return "sliding_attention" if (number + 1) % every else "full_attention"


def derived_head_size(way_out: str) -> Limit:
    """The runtime computes the size of a head."""

    def limit(sizes: SlimSizes) -> str | None:
        reason = f"it takes the size of a head to be the hidden size divided by the heads; {way_out}"
        return None if sizes.heads_fill_hidden_size else reason

    return limit


def numbered_layers(sizes: SlimSizes) -> str | None:
    """The runtime knows by the number of a layer whether it has a sliding window."""
    if sizes.keeps_pattern:
        return None
    every = PATTERNS[sizes.family]
    if not sizes.layers_known:
        return (
            f"it takes every layer whose number {every} divides to see the whole text, and which layers stay is not "
            "known yet: the report of the job says whether they fit"
        )
    return (
        f"it takes every layer whose number {every} divides to see the whole text, which the layers that stay do not: "
        "remove other units than layers"
    )


def every_nth_layer(sizes: SlimSizes) -> str | None:
    """The runtime knows by the number of a layer of a ModernBERT whether it sees the whole text."""
    every, types = sizes.config.get("global_attn_every_n_layers", 3), sizes.config.get("layer_types")
    if not sizes.layers_known:
        return (
            "it takes one layer of every few to see the whole text, and which layers stay is not known yet: the report "
            "of the job says whether they fit"
        )
    if types is None or (every is not None and every == every_nth(types)):
        return None
    return (
        "it takes one layer of every few to see the whole text, which the layers that stay do not: remove other units "
        "than layers"
    )


def llama_cpp_scale(sizes: SlimSizes) -> str | None:
    """llama.cpp does not read by what Gemma divides the products of queries and keys."""
    is_27b = sizes.layers == LAYERS_OF_27B[sizes.family]
    taken = sizes.hidden_size / sizes.heads if is_27b else sizes.head_size
    scalar = sizes.config.get("query_pre_attn_scalar", DEFAULT_SCALAR)
    if taken == scalar and (sizes.heads_known or not is_27b):
        return None
    return f"it computes query_pre_attn_scalar, which is {scalar:g}, from the numbers of layers and heads that stay"


def mlx_pattern_length(sizes: SlimSizes) -> str | None:
    """mlx-lm looks up the first layer of full attention."""
    every = PATTERNS[sizes.family]
    return None if sizes.layers >= every else f"it needs at least {every} layers, and {sizes.layers} stay"


def mlx_rope_type(sizes: SlimSizes) -> str | None:
    """mlx-lm was compared with transformers for these scalings of rotary positions."""
    rope = sizes.config.get("rope_parameters") or sizes.config.get("rope_scaling") or {}
    by_layer_type = rope.get("full_attention", rope) if isinstance(rope, Mapping) else rope
    if not isinstance(by_layer_type, Mapping):
        return "the rotary positions of config.json are not an object"
    kind = by_layer_type.get("rope_type") or by_layer_type.get("type") or "default"
    reason = f"whether it computes rotary positions of the type {kind!r} as transformers was not tested"
    return None if kind in MLX_ROPE_TYPES else reason


def no_mlp_bias(sizes: SlimSizes) -> str | None:
    """SGLang passes over the biases of the feed-forward modules of a Llama."""
    return "it does not load biases of feed-forward modules" if sizes.config.get("mlp_bias") else None


WITHOUT_HEADS = "remove other units than heads"
TRANSFORMERS_OF_VLLM = "start it with `--model-impl transformers`, which loads the checkpoint"

# (runtime, family) -> its limits.
LIMITS: dict[tuple[str, str], tuple[Limit, ...]] = {
    ("vllm", "qwen2"): (derived_head_size(TRANSFORMERS_OF_VLLM),),
    ("sglang", "qwen2"): (derived_head_size(WITHOUT_HEADS),),
    ("sglang", "llama"): (no_mlp_bias,),
    ("llama.cpp", "qwen2"): (derived_head_size(WITHOUT_HEADS),),
    ("mlx-lm", "qwen2"): (derived_head_size(WITHOUT_HEADS), mlx_rope_type),
    ("llama.cpp", "phi3"): (derived_head_size(WITHOUT_HEADS),),
    ("mlx-lm", "phi3"): (derived_head_size(WITHOUT_HEADS), mlx_rope_type),
    ("sglang", "gemma2"): (numbered_layers,),
    ("llama.cpp", "gemma2"): (numbered_layers, llama_cpp_scale),
    ("llama.cpp", "gemma3_text"): (numbered_layers, llama_cpp_scale),
    ("mlx-lm", "gemma3_text"): (mlx_pattern_length, numbered_layers, mlx_rope_type),
    ("mlx-lm", "llama"): (mlx_rope_type,),
    ("mlx-lm", "mistral"): (mlx_rope_type,),
    ("mlx-lm", "qwen3"): (mlx_rope_type,),
    ("mlx-lm", "olmo2"): (mlx_rope_type,),
    ("mlx-lm", "gemma2"): (mlx_rope_type,),
    ("vllm", "modernbert"): (every_nth_layer,),
}


def limit_of(runtime: str, sizes: SlimSizes) -> str | None:
    """Why the runtime does not load a model of these sizes, although it loads the family; None if it does."""
    limits = LIMITS.get((runtime, sizes.family), ())
    return next((reason for limit in limits if (reason := limit(sizes)) is not None), None)
