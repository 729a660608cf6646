"""The model families that can be slimmed: one row for each `model_type`.

The row holds what the API and the worker have to know of a family. `worker.slimming.architectures` has one more row for
each, with the modules of a loaded model, since that package may import torch alone; a test compares the two.
docs/contributing.md lists the steps that add a family.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.contract import catalog
from service.contract.errors import InvalidModel, UnsupportedFamily, UnsupportedUnit
from service.contract.options import Unit
from service.families.per_layer import is_per_layer
from service.families.quantisation import quantisation_of
from service.families.tensor_names import CheckpointNames, StackNames, UnitTensors, attention, feed_forward

Kind = Literal["causal", "encoder_decoder", "classifier"]
RuntimeName = Literal["vllm", "sglang", "llama.cpp", "mlx-lm"]

# The Auto class of transformers that loads a model of each kind with its task head.
AUTO_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class PretrainedHead:
    """Checkpoints of an encoder as it was pretrained, to which an adapter brings the classification head."""

    classes: tuple[str, ...]  # that config.json may name
    tensors: str  # regular expression that matches the tensors of their own heads, which are then not used


@dataclass(frozen=True)
class ModelFamily:
    """A family of models: all whose config.json says the same `model_type`."""

    model_type: str
    kind: Kind
    model_class: str  # the class of transformers with the task head, the only head that is supported
    names: CheckpointNames
    refused: Mapping[Unit, str] = field(default_factory=dict)  # unit -> why a stock config cannot hold fewer of them
    runtimes: tuple[
        RuntimeName, ...
    ] = ()  # those with an architecture for the family, without transformers, which has all
    same_head: tuple[str, ...] = ()  # other class names in config.json whose checkpoints have that head
    pretrained: PretrainedHead | None = None
    gguf: str = ""  # `general.architecture` of the GGUF files that transformers converts to this family

    @property
    def units(self) -> list[Unit]:
        """The units that can be removed."""
        return [unit for unit in Unit if unit not in self.refused]

    @property
    def auto_class(self) -> str:
        """The Auto class of transformers that loads the family with its task head."""
        return AUTO_CLASSES[self.kind]

    @property
    def described(self) -> catalog.Family:
        """The family as `GET /capabilities` shows it."""
        refused = {unit.value: reason for unit, reason in self.refused.items()}
        return catalog.Family(model_type=self.model_type, kind=self.kind, units=self.units, refused=refused)


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
GATED = StackNames("decoder", "layers", GATED_FEED_FORWARD + attention(r"self_attn\.o_proj", r"self_attn\.[qkv]_proj"))
GATED_WITH_BIAS = StackNames("decoder", "layers", GATED.unit_tensors, bias="mlp_bias")
FUSED = StackNames(
    "decoder",
    "layers",
    feed_forward(r"mlp\.down_proj", r"mlp\.gate_up_proj") + attention(r"self_attn\.o_proj", r"self_attn\.qkv_proj"),
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
BART_ENCODER = StackNames("encoder", "encoder.layers", feed_forward("fc2", "fc1"))
T5_ATTENTION = (r"layer\.\d\.(SelfAttention|EncDecAttention)\.o", r"layer\.\d\.(SelfAttention|EncDecAttention)\.[qkv]")
T5_TENSORS = (
    *feed_forward(r"layer\.\d\.DenseReluDense\.wo", r"layer\.\d\.DenseReluDense\.wi(_\d)?"),
    *attention(*T5_ATTENTION),
    UnitTensors(Unit.heads, r"layer\.0\.SelfAttention\.relative_attention_bias\.weight", 1),
    *attention(*T5_ATTENTION, unit=Unit.head_dims),
)

LLAMA_NAMES = CheckpointNames((GATED_WITH_BIAS,), head_counts_divide=("attention_bias", "mlp_bias"))
MISTRAL_NAMES = CheckpointNames((GATED,))
GEMMA_NAMES = CheckpointNames((GATED,), head_counts_divide=("hidden_size",), tied_by_default=True)
BERT_NAMES = CheckpointNames((BERT,), tied=())
ROBERTA_NAMES = CheckpointNames((BERT,), tied=(), numbers_after_padding=True)
T5_NAMES = CheckpointNames(
    (StackNames("encoder", "encoder.block", T5_TENSORS), StackNames("decoder", "decoder.block", T5_TENSORS)),
    heads="num_heads",
    key_value_heads="num_heads",
    head_size="d_kv",
    hidden_size="d_model",
    positions="",
    embedding="shared.weight",
    tied=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    always_tied=True,
)
BART_NAMES = CheckpointNames(
    (BART_ENCODER, OPT),
    heads="decoder_attention_heads",
    hidden_size="d_model",
    embedding="model.shared.weight",
    tied=("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    tied_by_default=True,
)

# --- the families --------------------------------------------------------------------------------------------------

ALL_RUNTIMES: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp", "mlx-lm")
NO_MLX: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp")
NO_SGLANG: tuple[RuntimeName, ...] = ("vllm", "llama.cpp")

FAMILIES: dict[str, ModelFamily] = {
    family.model_type: family
    for family in (
        ModelFamily("llama", "causal", "LlamaForCausalLM", LLAMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="llama"),
        ModelFamily("mistral", "causal", "MistralForCausalLM", MISTRAL_NAMES, NO_DIMENSIONS, ALL_RUNTIMES),
        ModelFamily("qwen2", "causal", "Qwen2ForCausalLM", MISTRAL_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="qwen2"),
        ModelFamily("qwen3", "causal", "Qwen3ForCausalLM", MISTRAL_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="qwen3"),
        ModelFamily("gemma2", "causal", "Gemma2ForCausalLM", GEMMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="gemma2"),
        ModelFamily(
            "gemma3_text", "causal", "Gemma3ForCausalLM", GEMMA_NAMES, NO_DIMENSIONS, ALL_RUNTIMES, gguf="gemma3"
        ),
        ModelFamily(
            "phi3", "causal", "Phi3ForCausalLM", CheckpointNames((FUSED,)), NO_DIMENSIONS, ALL_RUNTIMES, gguf="phi3"
        ),
        ModelFamily(
            "olmo2",
            "causal",
            "Olmo2ForCausalLM",
            CheckpointNames((GATED_WITHOUT_HEADS,)),
            NO_HEADS_UNDER_A_JOINT_NORM,
            ALL_RUNTIMES,
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
    )
}


def family_of(config: Mapping[str, Any], model: str) -> ModelFamily:
    """The family that a config.json names. Messages call the model `model`: by its URI, or `the model`.

    Raises InvalidModel, UnsupportedFamily.
    """
    if "auto_map" in config and not is_per_layer(config):
        raise own_code(model)
    quantisation_of(config, model)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"the model_type of {model}, {model_type!r}, is not supported; {_instead(config)}"
        raise UnsupportedFamily(message, param="model.uri")
    return FAMILIES[model_type]


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


def own_code(model: str) -> InvalidModel:
    """The error for a model whose files name Python code to run."""
    message = f"{model} names code of its own (`auto_map`), which is never run: give a checkpoint of a stock class"
    return InvalidModel(message, param="model.uri")
