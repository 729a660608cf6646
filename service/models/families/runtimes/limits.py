"""What a runtime takes from a config in its own way: the sizes with which it loads a family wrongly or not at all.

Each limit is a function of the sizes of a slim model. It gives the reason, with a way out where there is one, or None.
"""

from collections.abc import Callable, Mapping

from service.models.families.family import Kind
from service.models.families.runtimes.layer_patterns import LAYERS_OF_27B, PATTERNS, every_nth
from service.models.families.runtimes.sizes import SlimSizes

DEFAULT_WINDOW = 4096  # of `sliding_window` of a Gemma 2
DEFAULT_SCALAR = 256  # of `query_pre_attn_scalar`, for both families
MLX_ROPE_TYPES = ("default", "linear", "llama3")
NO_POSITIONS_EVERY = 4  # in llama.cpp the layers of a SmolLM3 whose number this divides have no rotary positions
LAYERS_OF_32B = 64  # with which llama.cpp takes an EXAONE 4 to have sliding windows
HUNYUAN_TOKENS = (32 * 1024, 256 * 1024)  # for which llama.cpp converts the dynamic positions of a Hunyuan
# Kinds of models of which no runtime but transformers is promised -> their head.
UNTESTED_HEADS: dict[Kind, str] = {
    "decoder_classifier": "a classification head on a decoder",
    "token_classifier": "a head for tokens",
    "encoder": "the embeddings of an encoder without a head",
}
UNKNOWN_LAYERS = "which layers stay is not known yet: the report of the job says whether they fit"

Limit = Callable[[SlimSizes], str | None]


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
        return f"it takes every layer whose number {every} divides to see the whole text, and {UNKNOWN_LAYERS}"
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


def rope_types(*kinds: str) -> Limit:
    """The runtime was compared with transformers for these scalings of rotary positions."""

    def limit(sizes: SlimSizes) -> str | None:
        rope = sizes.config.get("rope_parameters") or sizes.config.get("rope_scaling") or {}
        by_layer_type = rope.get("full_attention", rope) if isinstance(rope, Mapping) else rope
        if not isinstance(by_layer_type, Mapping):
            return "the rotary positions of config.json are not an object"
        kind = by_layer_type.get("rope_type") or by_layer_type.get("type") or "default"
        reason = f"whether it computes rotary positions of the type {kind!r} as transformers was not tested"
        return None if kind in kinds else reason

    return limit


mlx_rope_type = rope_types(*MLX_ROPE_TYPES)


def no_mlp_bias(sizes: SlimSizes) -> str | None:
    """SGLang passes over the biases of the feed-forward modules of a Llama."""
    return "it does not load biases of feed-forward modules" if sizes.config.get("mlp_bias") else None


def only_if(field: str, expected: bool, default: bool = False) -> Limit:
    """The runtime has the family with one value of a field of config.json, whose default is given."""

    def limit(sizes: SlimSizes) -> str | None:
        found = bool(sizes.config.get(field, default))
        return None if found is expected else f"it has the family only where {field} is {str(expected).lower()}"

    return limit


def numbered_positions(sizes: SlimSizes) -> str | None:
    """llama.cpp knows by the number of a layer of a SmolLM3 whether it has rotary positions."""
    every, chosen = NO_POSITIONS_EVERY, sizes.config.get("no_rope_layers")
    rule = f"it takes every layer whose number {every} divides to have no rotary positions"
    if not sizes.layers_known:
        return f"{rule}, and {UNKNOWN_LAYERS}"
    if chosen is None:
        fits = sizes.config.get("no_rope_layer_interval", every) == every
    else:
        fits = list(chosen)[: sizes.layers] == [int((number + 1) % every != 0) for number in range(sizes.layers)]
    return None if fits else f"{rule}, which the layers that stay do not follow"


def window_of_32b(sizes: SlimSizes) -> str | None:
    """llama.cpp knows by the number of its layers whether an EXAONE 4 has sliding windows."""
    if _has_window(sizes) is (sizes.layers == LAYERS_OF_32B):
        return None
    return f"it takes an EXAONE 4 to have sliding windows if it has {LAYERS_OF_32B} layers, and {sizes.layers} stay"


def keeps_kinds(*kinds: str) -> Limit:
    """The runtime needs a layer of each of these types where the family has sliding windows."""

    def limit(sizes: SlimSizes) -> str | None:
        reason = f"it needs a layer of each of the types {', '.join(kinds)}"
        if not _has_window(sizes):
            return None
        if not sizes.layers_known:
            return f"{reason}, and {UNKNOWN_LAYERS}"
        types = sizes.config.get("layer_types")
        return reason if types is not None and not set(kinds) <= set(types) else None

    return limit


def _has_window(sizes: SlimSizes) -> bool:
    return sizes.config.get("sliding_window", 4096) is not None


def hunyuan_positions(sizes: SlimSizes) -> str | None:
    """llama.cpp converts the dynamic rotary positions of the published models alone."""
    rope = sizes.config.get("rope_parameters") or sizes.config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    theta = rope.get("rope_theta") or sizes.config.get("rope_theta", 10_000.0)
    is_published = theta == 10_000.0 and sizes.config.get("max_position_embeddings") in HUNYUAN_TOKENS
    reason = "it converts dynamic rotary positions of the published base and numbers of tokens alone"
    return reason if kind == "dynamic" and not is_published else None


def whole_texts(sizes: SlimSizes) -> str | None:
    """mlx-lm computes every layer of a Gemma 2 without its sliding window."""
    window = sizes.config.get("sliding_window", DEFAULT_WINDOW)
    return (
        f"it is right for texts of at most {window} tokens, since it leaves the sliding windows out" if window else None
    )


TIED_HEAD = only_if("tie_word_embeddings", True, default=True)
HEAD_OF_ITS_OWN = only_if("tie_word_embeddings", False)
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
    ("llama.cpp", "gemma2"): (numbered_layers, llama_cpp_scale, TIED_HEAD),
    ("llama.cpp", "gemma3_text"): (numbered_layers, llama_cpp_scale),
    ("mlx-lm", "gemma3_text"): (mlx_pattern_length, numbered_layers, mlx_rope_type),
    ("mlx-lm", "llama"): (mlx_rope_type,),
    ("mlx-lm", "mistral"): (mlx_rope_type,),
    ("mlx-lm", "qwen3"): (mlx_rope_type,),
    ("mlx-lm", "olmo2"): (mlx_rope_type,),
    ("mlx-lm", "gemma2"): (mlx_rope_type,),
    ("vllm", "modernbert"): (every_nth_layer,),
    ("llama.cpp", "smollm3"): (
        numbered_positions,
        only_if("attention_bias", False),
        only_if("mlp_bias", False),
        only_if("use_sliding_window", False),
    ),
    ("mlx-lm", "smollm3"): (mlx_rope_type,),
    ("llama.cpp", "ministral3"): (rope_types("yarn"),),
    ("mlx-lm", "ministral3"): (rope_types("yarn"),),
    ("llama.cpp", "granite"): (derived_head_size(WITHOUT_HEADS),),
    ("mlx-lm", "granite"): (derived_head_size(WITHOUT_HEADS), mlx_rope_type),
    ("llama.cpp", "olmo3"): (numbered_layers, HEAD_OF_ITS_OWN, only_if("attention_bias", False)),
    ("mlx-lm", "olmo3"): (
        keeps_kinds("sliding_attention", "full_attention"),
        only_if("attention_bias", False),
        rope_types("default", "yarn"),
    ),
    ("vllm", "gemma"): (TIED_HEAD, only_if("attention_bias", False)),
    ("llama.cpp", "gemma"): (TIED_HEAD, only_if("attention_bias", False)),
    ("mlx-lm", "gemma"): (TIED_HEAD, only_if("attention_bias", False), rope_types("default")),
    ("mlx-lm", "glm4"): (HEAD_OF_ITS_OWN, rope_types("default")),
    ("vllm", "starcoder2"): (derived_head_size(TRANSFORMERS_OF_VLLM),),
    ("llama.cpp", "starcoder2"): (derived_head_size(WITHOUT_HEADS), only_if("use_bias", True, default=True)),
    ("mlx-lm", "starcoder2"): (
        derived_head_size(WITHOUT_HEADS),
        only_if("use_bias", True, default=True),
        rope_types("default"),
    ),
    ("llama.cpp", "nemotron"): (derived_head_size(WITHOUT_HEADS), HEAD_OF_ITS_OWN),
    ("mlx-lm", "nemotron"): (rope_types("default", "linear"),),
    ("vllm", "exaone4"): (keeps_kinds("sliding_attention"),),
    ("llama.cpp", "exaone4"): (derived_head_size(WITHOUT_HEADS), window_of_32b),
    ("vllm", "seed_oss"): (
        only_if("attention_bias", True, default=True),
        only_if("attention_out_bias", False),
        only_if("mlp_bias", False),
    ),
    ("llama.cpp", "seed_oss"): (only_if("attention_out_bias", False), only_if("mlp_bias", False)),
    ("mlx-lm", "seed_oss"): (mlx_rope_type,),
    ("llama.cpp", "hunyuan_v1_dense"): (only_if("attention_bias", False), hunyuan_positions),
    ("mlx-lm", "hunyuan_v1_dense"): (rope_types("default", "dynamic"),),
    ("vllm", "ernie4_5"): (only_if("use_bias", False),),
    ("llama.cpp", "ernie4_5"): (only_if("use_bias", False),),
    ("mlx-lm", "ernie4_5"): (rope_types("default"),),
}


# (runtime, family) -> what a user must know of a checkpoint that it loads.
CAVEATS: dict[tuple[str, str], Limit] = {("mlx-lm", "gemma2"): whole_texts}


def caveat_of(runtime: str, sizes: SlimSizes) -> str | None:
    """For which texts the runtime does not compute what transformers computes, although it loads the model."""
    caveat = CAVEATS.get((runtime, sizes.family))
    return caveat(sizes) if caveat else None


def untested_head(kind: Kind | None) -> str | None:
    """Why no runtime but transformers is promised for a model with this head; None where some are."""
    head = UNTESTED_HEADS.get(kind) if kind else None
    return f"whether it computes {head} as transformers does was not tested" if head else None


def limit_of(runtime: str, sizes: SlimSizes) -> str | None:
    """Why the runtime does not load a model of these sizes, although it loads the family; None if it does."""
    limits = LIMITS.get((runtime, sizes.family), ())
    return next((reason for limit in limits if (reason := limit(sizes)) is not None), None)
