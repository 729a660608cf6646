"""The decoders: one row for each `model_type`."""

from dataclasses import replace

from service.contract.options import Unit
from service.models.families.family import (
    ALL_BUT_SGLANG,
    ALL_RUNTIMES,
    NO_DIMENSIONS,
    NO_HEADS,
    NO_MLX,
    NO_SGLANG,
    ON_ONE_MACHINE,
    TIED_DIMENSIONS,
    FirstLayer,
    ModelFamily,
)
from service.models.tensors.dense_layers import FIRST_DENSE, num_dense_layers
from service.models.tensors.names import (
    CORRECTION,
    SHARED_NEURONS,
    CheckpointNames,
    ExpertFiles,
    StackNames,
    UnitTensors,
    attention,
    experts,
    feed_forward,
)

# --- units that a decoder does not have ------------------------------------------------------------------------------

JOINT_NORM = "the norms of queries and keys span all heads, so that a model with fewer heads would compute another mean"
HEADLESS_LAYERS = "most layers have linear attention, whose heads a config counts on their own"
TWO_KINDS = "the stock class fails without a layer of full attention, and scores decide which layers stay"
TWO_HEAD_SIZES = (
    "layers of full attention have heads of their own size, and later layers may share those of earlier ones"
)
LAST_LAYER = (
    "the stock class gives the last layer full attention, later layers may share keys and values of earlier ones, and "
    "scores decide which layers stay"
)
SECOND_EMBEDDING = "each token has rows of a second embedding, which the layers read, and which are not removed yet"
SHARED_KEYS = {Unit.vocabulary: SECOND_EMBEDDING, Unit.heads: TWO_HEAD_SIZES, Unit.layers: LAST_LAYER, **NO_DIMENSIONS}
LINEAR_ATTENTION = {Unit.heads: HEADLESS_LAYERS, Unit.layers: TWO_KINDS, **NO_DIMENSIONS}
NO_HEADS_UNDER_A_JOINT_NORM = {Unit.heads: JOINT_NORM, **NO_DIMENSIONS}
WITH_EXPERTS = {Unit.head_dims: TIED_DIMENSIONS}
ATTENTION_SINKS = "each head has a sink of its own, and heads with sinks are not removed yet"
HEADLESS_CONFIG = (
    "its class in transformers 4 derives the size of a head from hidden size and head count, and loads no fewer heads"
)
EXPERTS_AND_SINKS = {Unit.heads: ATTENTION_SINKS, **WITH_EXPERTS}
EXPERTS_AND_DERIVED_SIZE = {Unit.heads: HEADLESS_CONFIG, **WITH_EXPERTS}
EXPERTS_UNDER_A_JOINT_NORM = {Unit.heads: JOINT_NORM, **WITH_EXPERTS}
DENSE_LAYERS = "each of its first layers has a feed-forward block in place of experts"

# --- tensors ---------------------------------------------------------------------------------------------------------

GATED_FEED_FORWARD = feed_forward(r"mlp\.down_proj", r"mlp\.(gate|up)_proj")
GATED_WITHOUT_HEADS = StackNames("decoder", "layers", GATED_FEED_FORWARD)
SELF_ATTENTION = attention(r"self_attn\.o_proj", r"self_attn\.[qkv]_proj")
GATED = StackNames("decoder", "layers", GATED_FEED_FORWARD + SELF_ATTENTION)
GATED_WITH_BIAS = StackNames("decoder", "layers", GATED.unit_tensors, bias="mlp_bias")
FUSED = StackNames(
    "decoder",
    "layers",
    feed_forward(r"mlp\.down_proj", r"mlp\.gate_up_proj") + attention(r"self_attn\.o_proj", r"self_attn\.qkv_proj"),
)
GLM4 = StackNames("decoder", "layers", feed_forward(r"mlp\.down_proj", r"mlp\.gate_up_proj") + SELF_ATTENTION)
STARCODER2 = StackNames("decoder", "layers", feed_forward(r"mlp\.c_proj", r"mlp\.c_fc") + SELF_ATTENTION)
NEMOTRON = StackNames(
    "decoder", "layers", feed_forward(r"mlp\.down_proj", r"mlp\.up_proj") + SELF_ATTENTION, bias="mlp_bias"
)
GPT2 = StackNames(
    "decoder",
    "h",
    (
        UnitTensors(Unit.ffn, r"mlp\.c_proj\.weight", 0),
        UnitTensors(Unit.ffn, r"mlp\.c_fc\.weight", 1),
        UnitTensors(Unit.ffn, r"mlp\.c_fc\.bias", 0),
    ),
)
OPT = StackNames("decoder", "decoder.layers", feed_forward("fc2", "fc1"))
NEOX = StackNames("decoder", "layers", feed_forward(r"mlp\.dense_4h_to_h", r"mlp\.dense_h_to_4h"))
EXPERTS = experts(r"mlp\.experts", r"mlp\.gate")
ROUTED = StackNames("decoder", "layers", EXPERTS + SELF_ATTENTION)
ROUTED_WITHOUT_HEADS = StackNames("decoder", "layers", EXPERTS)
QWEN2_MOE = StackNames(
    "decoder",
    "layers",
    EXPERTS + feed_forward(r"mlp\.shared_expert\.down_proj", r"mlp\.shared_expert\.(gate|up)_proj", SHARED_NEURONS),
)
GPT_OSS = StackNames("decoder", "layers", experts(r"mlp\.experts", r"mlp\.router", transposed=True))
GLM4_MOE = StackNames(
    "decoder",
    "layers",
    GATED_FEED_FORWARD  # of the first layers
    + experts(r"mlp\.experts", r"mlp\.gate", buffers=CORRECTION)
    + feed_forward(r"mlp\.shared_experts\.down_proj", r"mlp\.shared_experts\.(gate|up)_proj", SHARED_NEURONS)
    + SELF_ATTENTION,
)
# How the files of a checkpoint name the matrices of one expert.
MIXTRAL_FILES = ExpertFiles("block_sparse_moe", gate="w1", up="w3", down="w2")
QWEN_FILES = ExpertFiles("mlp", gate="gate_proj", up="up_proj", down="down_proj")

KEY_VALUE_HEADS, HEAD_SIZE, PER_TOKEN = "num_key_value_heads", "head_dim", "num_experts_per_tok"
LLAMA_NAMES = CheckpointNames((GATED_WITH_BIAS,), head_counts_divide=("attention_bias", "mlp_bias"))
MISTRAL_NAMES = CheckpointNames((GATED,), class_defaults={KEY_VALUE_HEADS: 8}, nullable=(HEAD_SIZE,))
QWEN_NAMES = CheckpointNames((GATED,), class_defaults={KEY_VALUE_HEADS: 32}, nullable=(KEY_VALUE_HEADS,))
GEMMA_NAMES = CheckpointNames(
    (GATED,),
    head_counts_divide=("hidden_size",),
    tied_by_default=True,
    class_defaults={KEY_VALUE_HEADS: 4, HEAD_SIZE: 256},
    nullable=(),
)
OLMO_NAMES = CheckpointNames((GATED_WITHOUT_HEADS,), nullable=(KEY_VALUE_HEADS,))
QWEN3_5_NAMES = CheckpointNames(
    (GATED_WITHOUT_HEADS,), class_defaults={KEY_VALUE_HEADS: 4, HEAD_SIZE: 256}, nullable=()
)
GEMMA4_NAMES = replace(QWEN3_5_NAMES, tied_by_default=True)
SMOLLM3_NAMES = CheckpointNames(
    (GATED_WITH_BIAS,), tied_by_default=True, class_defaults={KEY_VALUE_HEADS: 4}, nullable=(KEY_VALUE_HEADS,)
)
MINISTRAL3_NAMES = CheckpointNames((GATED,), class_defaults={KEY_VALUE_HEADS: 8, HEAD_SIZE: 128}, nullable=())
GRANITE_NAMES = CheckpointNames((GATED_WITH_BIAS,), nullable=(KEY_VALUE_HEADS,))
GEMMA1_NAMES = CheckpointNames(
    (GATED,), tied_by_default=True, class_defaults={KEY_VALUE_HEADS: 16, HEAD_SIZE: 256}, nullable=()
)
GLM4_NAMES = CheckpointNames((GLM4,), class_defaults={KEY_VALUE_HEADS: 2, HEAD_SIZE: 128}, nullable=())
STARCODER2_NAMES = CheckpointNames(
    (STARCODER2,), tied_by_default=True, class_defaults={KEY_VALUE_HEADS: 2}, nullable=(HEAD_SIZE,)
)
NEMOTRON_NAMES = CheckpointNames((NEMOTRON,), needed=(KEY_VALUE_HEADS,), nullable=(HEAD_SIZE,))
EXAONE4_NAMES = CheckpointNames((GATED,), class_defaults={KEY_VALUE_HEADS: 32}, nullable=())
SEED_OSS_NAMES = CheckpointNames((GATED_WITH_BIAS,), class_defaults={KEY_VALUE_HEADS: 8, HEAD_SIZE: 128})
HUNYUAN_NAMES = CheckpointNames((GATED,), needed=(HEAD_SIZE,), nullable=(KEY_VALUE_HEADS,))
ERNIE_NAMES = CheckpointNames((GATED,), tied_by_default=True, class_defaults={KEY_VALUE_HEADS: 2, HEAD_SIZE: 128})

LOCAL_EXPERTS, EXPERT_COUNT, ROUTED_EXPERTS = "num_local_experts", "num_experts", "n_routed_experts"
N_GROUP, TOPK_GROUP, SHARED_EXPERTS = "n_group", "topk_group", "n_shared_experts"
MIXTRAL_NAMES = CheckpointNames(
    (ROUTED,),
    class_defaults={KEY_VALUE_HEADS: 8, LOCAL_EXPERTS: 8, PER_TOKEN: 2},
    nullable=(HEAD_SIZE,),
    experts=LOCAL_EXPERTS,
    other_experts=EXPERT_COUNT,
    expert_files=MIXTRAL_FILES,
)
QWEN3_MOE_NAMES = CheckpointNames(
    (ROUTED,),
    class_defaults={KEY_VALUE_HEADS: 4, EXPERT_COUNT: 128, PER_TOKEN: 8},
    nullable=(),
    experts=EXPERT_COUNT,
    other_experts=LOCAL_EXPERTS,
    expert_files=QWEN_FILES,
)
QWEN2_MOE_NAMES = CheckpointNames(
    (QWEN2_MOE,),
    class_defaults={KEY_VALUE_HEADS: 16, EXPERT_COUNT: 60, PER_TOKEN: 4},
    nullable=(),
    experts=EXPERT_COUNT,
    expert_files=QWEN_FILES,
)
OLMOE_NAMES = CheckpointNames(
    (ROUTED_WITHOUT_HEADS,),
    class_defaults={EXPERT_COUNT: 64, PER_TOKEN: 8},
    nullable=(KEY_VALUE_HEADS,),
    experts=EXPERT_COUNT,
    other_experts=LOCAL_EXPERTS,
    expert_files=QWEN_FILES,
)
GPT_OSS_NAMES = CheckpointNames(
    (GPT_OSS,),
    class_defaults={KEY_VALUE_HEADS: 8, HEAD_SIZE: 64, LOCAL_EXPERTS: 128, PER_TOKEN: 4},
    nullable=(),
    experts=LOCAL_EXPERTS,
    other_experts=EXPERT_COUNT,
)
GLM4_MOE_NAMES = CheckpointNames(
    (GLM4_MOE,),
    class_defaults={
        KEY_VALUE_HEADS: 8,
        ROUTED_EXPERTS: 128,
        PER_TOKEN: 8,
        N_GROUP: 1,
        TOPK_GROUP: 1,
        SHARED_EXPERTS: 1,
        FIRST_DENSE: 1,
    },
    nullable=(),
    experts=ROUTED_EXPERTS,
    other_experts=LOCAL_EXPERTS,
    expert_groups=N_GROUP,
    chosen_groups=TOPK_GROUP,
    shared_experts=SHARED_EXPERTS,
    expert_files=QWEN_FILES,
)

# --- the rows --------------------------------------------------------------------------------------------------------

DECODERS: tuple[ModelFamily, ...] = (
    ModelFamily("llama", "causal", "LlamaForCausalLM", LLAMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="llama"),
    ModelFamily("mistral", "causal", "MistralForCausalLM", MISTRAL_NAMES, NO_DIMENSIONS, ALL_RUNTIMES),
    ModelFamily("qwen2", "causal", "Qwen2ForCausalLM", QWEN_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="qwen2"),
    ModelFamily(
        "qwen3",
        "causal",
        "Qwen3ForCausalLM",
        replace(QWEN_NAMES, class_defaults={KEY_VALUE_HEADS: 32, HEAD_SIZE: 128}),
        NO_DIMENSIONS,
        ALL_RUNTIMES,
        gguf="qwen3",
    ),
    ModelFamily("gemma2", "causal", "Gemma2ForCausalLM", GEMMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="gemma2"),
    ModelFamily("gemma3_text", "causal", "Gemma3ForCausalLM", GEMMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="gemma3"),
    ModelFamily(
        "phi3",
        "causal",
        "Phi3ForCausalLM",
        CheckpointNames((FUSED,), nullable=(KEY_VALUE_HEADS,)),
        NO_DIMENSIONS,
        ALL_RUNTIMES,
        gguf="phi3",
    ),
    ModelFamily(
        "olmo2",
        "causal",
        "Olmo2ForCausalLM",
        OLMO_NAMES,
        NO_HEADS_UNDER_A_JOINT_NORM,
        ALL_RUNTIMES,
    ),
    ModelFamily("olmo3", "causal", "Olmo3ForCausalLM", OLMO_NAMES, NO_HEADS_UNDER_A_JOINT_NORM, ON_ONE_MACHINE),
    ModelFamily("qwen3_5_text", "causal", "Qwen3_5ForCausalLM", QWEN3_5_NAMES, LINEAR_ATTENTION),
    ModelFamily("gemma4_text", "causal", "Gemma4ForCausalLM", GEMMA4_NAMES, SHARED_KEYS),
    ModelFamily("smollm3", "causal", "SmolLM3ForCausalLM", SMOLLM3_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("ministral3", "causal", "Ministral3ForCausalLM", MINISTRAL3_NAMES, NO_DIMENSIONS, ON_ONE_MACHINE),
    ModelFamily("granite", "causal", "GraniteForCausalLM", GRANITE_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("gemma", "causal", "GemmaForCausalLM", GEMMA1_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("glm4", "causal", "Glm4ForCausalLM", GLM4_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("starcoder2", "causal", "Starcoder2ForCausalLM", STARCODER2_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("nemotron", "causal", "NemotronForCausalLM", NEMOTRON_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("exaone4", "causal", "Exaone4ForCausalLM", EXAONE4_NAMES, NO_DIMENSIONS, NO_SGLANG),
    ModelFamily("seed_oss", "causal", "SeedOssForCausalLM", SEED_OSS_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily(
        "hunyuan_v1_dense", "causal", "HunYuanDenseV1ForCausalLM", HUNYUAN_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG
    ),
    ModelFamily("ernie4_5", "causal", "Ernie4_5ForCausalLM", ERNIE_NAMES, NO_DIMENSIONS, ALL_BUT_SGLANG),
    ModelFamily("mixtral", "causal", "MixtralForCausalLM", MIXTRAL_NAMES, WITH_EXPERTS),
    ModelFamily("qwen3_moe", "causal", "Qwen3MoeForCausalLM", QWEN3_MOE_NAMES, WITH_EXPERTS),
    ModelFamily("qwen2_moe", "causal", "Qwen2MoeForCausalLM", QWEN2_MOE_NAMES, EXPERTS_AND_DERIVED_SIZE),
    ModelFamily("olmoe", "causal", "OlmoeForCausalLM", OLMOE_NAMES, EXPERTS_UNDER_A_JOINT_NORM),
    ModelFamily("gpt_oss", "causal", "GptOssForCausalLM", GPT_OSS_NAMES, EXPERTS_AND_SINKS),
    ModelFamily(
        "glm4_moe",
        "causal",
        "Glm4MoeForCausalLM",
        GLM4_MOE_NAMES,
        WITH_EXPERTS,
        first_layer=FirstLayer(DENSE_LAYERS, lambda config: num_dense_layers(config) > 0, num_dense_layers),
    ),
    ModelFamily(
        "gpt2",
        "causal",
        "GPT2LMHeadModel",
        CheckpointNames(
            (GPT2,),
            heads="n_head",
            hidden_size="n_embd",
            positions="n_positions",
            embedding="transformer.wte.weight",
            tied_by_default=True,
            transposed=r"(.*\.)?h\.\d+\..*\.c_(attn|proj|fc)\.weight",
        ),
        NO_HEADS,
        NO_MLX,
        gguf="gpt2",
    ),
    ModelFamily(
        "opt",
        "causal",
        "OPTForCausalLM",
        CheckpointNames((OPT,), embedding="model.decoder.embed_tokens.weight", tied_by_default=True),
        NO_HEADS,
        ("vllm",),
    ),
    ModelFamily(
        "gpt_neox",
        "causal",
        "GPTNeoXForCausalLM",
        CheckpointNames((NEOX,), embedding="gpt_neox.embed_in.weight", tied=("embed_out.weight",)),
        NO_HEADS,
        NO_SGLANG,
    ),
)
