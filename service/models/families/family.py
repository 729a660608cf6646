"""What is known of a model family without loading a model: the type of the rows in `decoders`, `encoders` and
`encoder_decoders`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.contract.answers import catalog
from service.contract.options import Unit
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.models.tensors.modules import ModelTensors, always
from service.models.tensors.names import CheckpointNames
from service.models.tensors.table import MODEL_TENSORS
from service.models.tensors.unused import may_be_unused

POOLER = r"(\w+\.)?pooler\.dense\.(weight|bias)"  # of an encoder without a head

Kind = Literal["causal", "encoder_decoder", "classifier", "decoder_classifier", "token_classifier", "encoder"]
RuntimeName = Literal["vllm", "sglang", "llama.cpp", "mlx-lm"]

# The Auto class of transformers that loads a model of each kind with its task head.
AUTO_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
    "decoder_classifier": "AutoModelForSequenceClassification",
    "token_classifier": "AutoModelForTokenClassification",
    "encoder": "AutoModel",
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
    """A first layer that differs from the others, or several, so that none of them can take its place."""

    reason: str
    where: Callable[[Mapping[str, Any]], bool] = always  # the configs of which this holds
    count: Callable[[Mapping[str, Any]], int] = lambda config: 1  # how many first layers they are


@dataclass(frozen=True)
class ModelFamily:
    """A family of models: all whose config.json says the same `model_type`."""

    model_type: str
    kind: Kind
    model_class: str  # the class of transformers with the task head; `other_heads` has the families' others
    names: CheckpointNames
    refused: Mapping[Unit, str] = field(default_factory=dict)  # unit -> why a stock config cannot hold fewer of them
    runtimes: tuple[
        RuntimeName, ...
    ] = ()  # those with an architecture for the family, without transformers, which has all
    same_head: tuple[str, ...] = ()  # other class names in config.json whose checkpoints have that head
    pretrained: PretrainedHead | None = None
    first_layer: FirstLayer | None = None
    answers_after_bos: bool = False  # whether the decoder begins with the BOS token where no other is named
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
    def encoder_class(self) -> str:
        """The class of the family's encoder without a head; "" for a family of decoders."""
        return self.pretrained.classes[0] if self.kind == "classifier" and self.pretrained else ""

    @property
    def auto_class(self) -> str:
        """The Auto class of transformers that loads the family with its task head."""
        return AUTO_CLASSES[self.kind]

    @property
    def described(self) -> catalog.Family:
        """The family as `GET /capabilities` shows it."""
        refused = {unit.value: reason for unit, reason in self.refused.items()}
        other_heads = (heads.get(self.model_type) for heads in (DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS))
        classes = [self.model_class, *filter(None, (*other_heads, self.encoder_class))]
        return catalog.Family(
            model_type=self.model_type, kind=self.kind, classes=classes, units=self.units, refused=refused
        )


# Why a stock config cannot hold fewer units of a kind, and the units for which a family says so.
DERIVED_SIZE = (
    "a stock config derives the size of a head from hidden size and head count, so it cannot hold fewer heads"
)
TIED_DIMENSIONS = "rotary positions or a stock config tie the dimensions of a head to each other"
NO_EXPERTS = {Unit.experts: "the layers of this family have no experts"}
NO_DIMENSIONS = {Unit.head_dims: TIED_DIMENSIONS, **NO_EXPERTS}
NO_HEADS = {Unit.heads: DERIVED_SIZE, **NO_DIMENSIONS}

# The runtimes of some rows.
ALL_RUNTIMES: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp", "mlx-lm")
NO_MLX: tuple[RuntimeName, ...] = ("vllm", "sglang", "llama.cpp")
NO_SGLANG: tuple[RuntimeName, ...] = ("vllm", "llama.cpp")
ALL_BUT_SGLANG: tuple[RuntimeName, ...] = (*NO_SGLANG, "mlx-lm")
ON_ONE_MACHINE: tuple[RuntimeName, ...] = ("llama.cpp", "mlx-lm")
