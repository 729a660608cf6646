"""The model families that can be slimmed: one row for each `model_type`.

The row holds what the API and the worker have to know of a family. `worker.slimming.architectures` has one more row for
each, with the modules of a loaded model, since that package may import torch alone; a test compares the two.
docs/contributing.md lists the steps that add a family.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.contract import catalog
from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedFamily, UnsupportedUnit
from service.contract.method import Method
from service.contract.options import Unit
from service.families.model_tensors import MODEL_TENSORS, ModelTensors, always, has_convolution
from service.families.per_layer import CLASS_PREFIX, is_per_layer
from service.families.quantisation import quantisation_of
from service.families.tensor_names import CheckpointNames, StackNames, UnitTensors, attention, feed_forward
from service.families.unused_tensors import may_be_unused

Kind = Literal["causal", "encoder_decoder", "classifier", "decoder_classifier", "token_classifier", "encoder"]
RuntimeName = Literal["vllm", "sglang", "llama.cpp", "mlx-lm"]

# The Auto class of transformers that loads a model of each kind with its task head.
AUTO_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
    "decoder_classifier": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
    "token_classifier": "AutoModelForTokenClassification",
}
# kinds with a classification head
CLASSIFIERS: tuple[Kind, ...] = ("classifier", "decoder_classifier", "token_classifier")


@dataclass(frozen=True)
class PretrainedHead:
    """Checkpoints of a model as it was pretrained, to which an adapter brings the classification head."""

    classes: tuple[str, ...]  # that config.json may name
    tensors: str  # regular expression that matches the tensors of their own heads, which are then not used


@dataclass(frozen=True)
class FirstLayer:
    """A first layer that differs from the others, so that none of them can take its place."""

    reason: str
    where: Callable[[Mapping[str, Any]], bool] = always  # the configs of which this holds


@dataclass(frozen=True)
class ModelFamily:
    """A family of models: all whose config.json says the same `model_type`."""

    model_type: str
    kind: Kind
    model_class: str  # the class of transformers with the task head; HEADS has the families' other heads
    names: CheckpointNames
    refused: Mapping[Unit, str] = field(default_factory=dict)  # unit -> why a stock config cannot hold fewer of them
    runtimes: tuple[
        RuntimeName, ...
    ] = ()  # those with an architecture for the family, without transformers, which has all
    same_head: tuple[str, ...] = ()  # other class names in config.json whose checkpoints have that head
    pretrained: PretrainedHead | None = None
    first_layer: FirstLayer | None = None
    own_target_tokens: bool = False  # whether the tokenizer reads answers in another way than prompts
    writes_no_padding: bool = False  # whether a text never has the padding token, however high its logit is
    gguf: str = ""  # `general.architecture` of the GGUF files that transformers converts to this family

    @property
    def units(self) -> list[Unit]:
        """The units that can be removed."""
        return [unit for unit in Unit if unit not in self.refused]

    @property
    def tensors(self) -> ModelTensors:
        """The tensors of the family's models with this head."""
        row = MODEL_TENSORS[self.model_type]
        if self.kind == "encoder":
            return row.without_head()
        if self.kind == "token_classifier":
            return row.with_token_head()
        return row.with_score() if self.kind == "decoder_classifier" else row

    def may_leave_unused(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether a model of the family with this config needs nothing of the tensor. An encoder keeps its pooler."""
        is_pooler = self.kind == "encoder" and re.fullmatch(POOLER, name)
        return not is_pooler and may_be_unused(name, self.model_type, config)

    @property
    def auto_class(self) -> str:
        """The Auto class of transformers that loads the family with its task head."""
        return AUTO_CLASSES[self.kind]

    @property
    def described(self) -> catalog.Family:
        """The family as `GET /capabilities` shows it."""
        refused = {unit.value: reason for unit, reason in self.refused.items()}
        other_heads = (heads.get(self.model_type) for heads in (DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS))
        classes = [self.model_class, *filter(None, (*other_heads, encoder_class(self)))]
        return catalog.Family(
            model_type=self.model_type, kind=self.kind, classes=classes, units=self.units, refused=refused
        )


# --- units that a family does not have -----------------------------------------------------------------------------

DERIVED_SIZE = (
    "a stock config derives the size of a head from hidden size and head count, so it cannot hold fewer heads"
)
TIED_DIMENSIONS = "rotary positions or a stock config tie the dimensions of a head to each other"
JOINT_NORM = "the norms of queries and keys span all heads, so that a model with fewer heads would compute another mean"
FACTORS_OF_HEADS = (
    "with long rotary positions a stock config derives the number of their factors from the number of heads: remove "
    "other units than heads"
)
NO_DIMENSIONS = {Unit.head_dims: TIED_DIMENSIONS}
NO_HEADS = {Unit.heads: DERIVED_SIZE, Unit.head_dims: TIED_DIMENSIONS}
NO_HEADS_UNDER_A_JOINT_NORM = {Unit.heads: JOINT_NORM, Unit.head_dims: TIED_DIMENSIONS}

# --- tensors -------------------------------------------------------------------------------------------------------

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
BERT = StackNames("encoder", "encoder.layer", feed_forward(r"output\.dense", r"intermediate\.dense"))
DISTILBERT = StackNames("encoder", "transformer.layer", feed_forward(r"ffn\.lin2", r"ffn\.lin1"))
MODERNBERT = StackNames("encoder", "layers", feed_forward(r"mlp\.Wo", r"mlp\.Wi"), bias="mlp_bias")
BART_ENCODER = StackNames("encoder", "encoder.layers", feed_forward("fc2", "fc1"))
T5_ATTENTION = (r"layer\.\d\.(SelfAttention|EncDecAttention)\.o", r"layer\.\d\.(SelfAttention|EncDecAttention)\.[qkv]")
T5_BIAS = r"layer\.0\.SelfAttention\.relative_attention_bias\.weight"
T5_TENSORS = (
    *feed_forward(r"layer\.\d\.DenseReluDense\.wo", r"layer\.\d\.DenseReluDense\.wi(_\d)?"),
    *attention(*T5_ATTENTION),
    UnitTensors(Unit.heads, T5_BIAS, 1),
    *attention(*T5_ATTENTION, unit=Unit.head_dims),
)

KEY_VALUE_HEADS, HEAD_SIZE = "num_key_value_heads", "head_dim"
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
BERT_NAMES = CheckpointNames((BERT,), tied=())
ROBERTA_NAMES = CheckpointNames((BERT,), tied=(), numbers_after_padding=True)
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

# --- the families --------------------------------------------------------------------------------------------------

ALL_RUNTIMES: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp", "mlx-lm")
NO_MLX: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp")
NO_SGLANG: tuple[RuntimeName, ...] = ("vllm", "llama.cpp")
ALL_BUT_SGLANG: tuple[RuntimeName, ...] = (*NO_SGLANG, "mlx-lm")
ON_ONE_MACHINE: tuple[RuntimeName, ...] = ("llama.cpp", "mlx-lm")

FAMILIES: dict[str, ModelFamily] = {
    family.model_type: family
    for family in (
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
        ModelFamily(
            "gemma3_text", "causal", "Gemma3ForCausalLM", GEMMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="gemma3"
        ),
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
        ModelFamily(
            "t5",
            "encoder_decoder",
            "T5ForConditionalGeneration",
            T5_NAMES,
            runtimes=("llama.cpp",),
            same_head=("T5WithLMHeadModel",),
        ),
        ModelFamily("mt5", "encoder_decoder", "MT5ForConditionalGeneration", T5_NAMES, runtimes=("llama.cpp",)),
        ModelFamily(
            "bart", "encoder_decoder", "BartForConditionalGeneration", BART_NAMES, NO_HEADS, same_head=("BartModel",)
        ),
        ModelFamily(
            "bert",
            "classifier",
            "BertForSequenceClassification",
            BERT_NAMES,
            NO_HEADS,
            NO_SGLANG,
            pretrained=PretrainedHead(("BertModel", "BertForMaskedLM", "BertForPreTraining"), r"cls\..*"),
        ),
        ModelFamily(
            "roberta",
            "classifier",
            "RobertaForSequenceClassification",
            ROBERTA_NAMES,
            NO_HEADS,
            NO_SGLANG,
            pretrained=PretrainedHead(("RobertaModel", "RobertaForMaskedLM"), r"lm_head\..*"),
        ),
        ModelFamily(
            "distilbert",
            "classifier",
            "DistilBertForSequenceClassification",
            CheckpointNames((DISTILBERT,), heads="n_heads", hidden_size="dim", tied=()),
            NO_HEADS,
            pretrained=PretrainedHead(
                ("DistilBertModel", "DistilBertForMaskedLM"), r"vocab_(transform|layer_norm|projector)\..*"
            ),
        ),
        ModelFamily(
            "xlm-roberta",
            "classifier",
            "XLMRobertaForSequenceClassification",
            ROBERTA_NAMES,
            NO_HEADS,
            NO_SGLANG,
            pretrained=PretrainedHead(("XLMRobertaModel", "XLMRobertaForMaskedLM"), r"lm_head\..*"),
        ),
        ModelFamily(
            "electra",
            "classifier",
            "ElectraForSequenceClassification",
            BERT_NAMES,
            NO_HEADS,
            pretrained=PretrainedHead(
                ("ElectraModel", "ElectraForPreTraining", "ElectraForMaskedLM"),
                r"(discriminator_predictions|generator_predictions|generator_lm_head)\..*",
            ),
        ),
        ModelFamily(
            "modernbert",
            "classifier",
            "ModernBertForSequenceClassification",
            CheckpointNames((MODERNBERT,), tied=()),
            NO_HEADS,
            ("vllm",),
            pretrained=PretrainedHead(("ModernBertModel", "ModernBertForMaskedLM"), r"decoder\..*"),
            first_layer=FirstLayer("the first layer has no norm in front of its attention"),
        ),
        ModelFamily(
            "deberta-v2",
            "classifier",
            "DebertaV2ForSequenceClassification",
            CheckpointNames((BERT,), positions_where="position_biased_input", tied=()),
            NO_HEADS,
            pretrained=PretrainedHead(
                ("DebertaV2Model", "DebertaV2ForMaskedLM"), r"(cls|lm_predictions|mask_predictions)\..*"
            ),
            first_layer=FirstLayer("a convolution follows the first layer", has_convolution),
        ),
        ModelFamily("mbart", "encoder_decoder", "MBartForConditionalGeneration", BART_NAMES, NO_HEADS),
        ModelFamily("pegasus", "encoder_decoder", "PegasusForConditionalGeneration", BART_NAMES, NO_HEADS),
        ModelFamily("m2m_100", "encoder_decoder", "M2M100ForConditionalGeneration", BART_NAMES, NO_HEADS),
        ModelFamily(
            "marian",
            "encoder_decoder",
            "MarianMTModel",
            MARIAN_NAMES,
            NO_HEADS,
            own_target_tokens=True,
            writes_no_padding=True,
        ),
        ModelFamily("umt5", "encoder_decoder", "UMT5ForConditionalGeneration", UMT5_NAMES),
    )
}

# Family -> the class with a classification head on its decoder. Its logits are those of the last token.
DECODER_CLASSIFIERS: dict[str, str] = {
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification",
    "gemma3_text": "Gemma3TextForSequenceClassification",
    "phi3": "Phi3ForSequenceClassification",
    "olmo2": "Olmo2ForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "opt": "OPTForSequenceClassification",
    "gpt_neox": "GPTNeoXForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification",
    "ministral3": "Ministral3ForSequenceClassification",
    "olmo3": "Olmo3ForSequenceClassification",
    "gemma": "GemmaForSequenceClassification",
    "glm4": "Glm4ForSequenceClassification",
    "starcoder2": "Starcoder2ForSequenceClassification",
    "nemotron": "NemotronForSequenceClassification",
    "exaone4": "Exaone4ForSequenceClassification",
    "seed_oss": "SeedOssForSequenceClassification",
    "hunyuan_v1_dense": "HunYuanDenseV1ForSequenceClassification",
}


# Family -> the class with a classification head for each token of its encoder.
TOKEN_CLASSIFIERS: dict[str, str] = {
    "bert": "BertForTokenClassification",
    "roberta": "RobertaForTokenClassification",
    "distilbert": "DistilBertForTokenClassification",
    "xlm-roberta": "XLMRobertaForTokenClassification",
    "electra": "ElectraForTokenClassification",
    "modernbert": "ModernBertForTokenClassification",
    "deberta-v2": "DebertaV2ForTokenClassification",
}
POOLER = r"(\w+\.)?pooler\.dense\.(weight|bias)"


def encoder_class(family: ModelFamily) -> str:
    """The class of the family's encoder without a head; "" for a family of decoders."""
    return family.pretrained.classes[0] if family.kind == "classifier" and family.pretrained else ""


def with_head(family: ModelFamily, model_class: str) -> ModelFamily:
    """The family with the head of a class of transformers; as it is where that is no other head of the family."""
    if model_class and model_class == encoder_class(family):
        return replace(family, kind="encoder", model_class=model_class, runtimes=(), pretrained=None)
    if model_class == TOKEN_CLASSIFIERS.get(family.model_type):
        return replace(family, kind="token_classifier", model_class=model_class, runtimes=(), same_head=())
    if model_class != DECODER_CLASSIFIERS.get(family.model_type):
        return family
    names = replace(family.names, tied=(), tied_by_default=False)
    return replace(
        family,
        kind="decoder_classifier",
        model_class=model_class,
        names=names,
        runtimes=(),
        same_head=(),
        pretrained=PretrainedHead((family.model_class,), r"(lm_head|embed_out)\..*"),
        gguf="",
    )


def with_adapter_head(family: ModelFamily, replaced: Collection[str]) -> ModelFamily:
    """The family with the head that an adapter brings; `replaced` are the tensors of the model that it replaces."""
    if family.kind == "encoder":
        heads = tuple(f"{path}." for path in MODEL_TENSORS[family.model_type].heads)
        return FAMILIES[family.model_type] if any(name.startswith(heads) for name in replaced) else family
    brings_head = family.kind == "causal" and "score.weight" in replaced
    return with_head(family, DECODER_CLASSIFIERS.get(family.model_type, "")) if brings_head else family


def family_of(config: Mapping[str, Any], model: str) -> ModelFamily:
    """The family that a config.json names, with its head. Messages call the model `model`: by its URI, or `the model`.

    Raises InvalidModel, UnsupportedFamily.
    """
    if "auto_map" in config and not is_per_layer(config):
        raise own_code(model)
    quantisation_of(config, model)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"the model_type of {model}, {model_type!r}, is not supported; {_instead(config)}"
        raise UnsupportedFamily(message, param="model.uri")
    return with_head(FAMILIES[model_type], named_class(config))


def named_class(config: Mapping[str, Any]) -> str:
    """The class of transformers that a config.json names first; "" where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return str(first).removeprefix(CLASS_PREFIX) if is_per_layer(config) else str(first)


def _instead(config: Mapping[str, Any]) -> str:
    """What to send in place of a model whose family is not in the table."""
    part = config.get("text_config")
    if isinstance(part, dict) and part.get("model_type") in FAMILIES:
        family = FAMILIES[part["model_type"]]
        return f"it is multimodal: save its text part as a {family.model_class} and give that"
    return f"these are: {', '.join(sorted(FAMILIES))}"


def check_units(units: Sequence[Unit], family: ModelFamily, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedUnit for a unit of which the stock config of the model cannot hold fewer."""
    refused = dict(family.refused)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if family.model_type == "phi3" and isinstance(rope, dict) and rope.get("long_factor"):
        refused[Unit.heads] = FACTORS_OF_HEADS
    for unit in units:
        if unit in refused:
            raise UnsupportedUnit(f"{family.model_type}: {refused[unit]}", param="method.units")


def keeps_first_layer(family: ModelFamily, config: Mapping[str, Any]) -> bool:
    """Whether no other layer can take the place of the first layer of the model."""
    return family.first_layer is not None and family.first_layer.where(config)


def check_first_layer(method: Method, family: ModelFamily, config: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where whole layers may be removed, also a first one whose place no other can take."""
    if Unit.layers in method.units and not method.protect_first and keeps_first_layer(family, config):
        assert family.first_layer is not None
        reason = f"{family.first_layer.reason}, so that no other layer can take its place"
        message = f"{family.model_type}: {reason}: set `protect_first` to 1 or more"
        raise InvalidRequest(message, param="method.protect_first")


def own_code(model: str) -> InvalidModel:
    """The error for a model whose files name Python code to run."""
    message = f"{model} names code of its own (`auto_map`), which is never run: give a checkpoint of a stock class"
    return InvalidModel(message, param="model.uri")
