"""Which tensors of a checkpoint become smaller when units of a kind are removed: the types of the rows in `families`.

Tensors are named as in the files of a checkpoint. `worker.slimming.architectures` names the same tensors by the modules
of a loaded model; tests/worker/slimming/test_architectures.py compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from service.contract.options import Unit

LINEAR = r"\.(weight|bias)"
CORRECTION = "e_score_correction_bias"  # of a router: what it adds to its scores, float32 in every checkpoint
# The parts of the unit `ffn` in layers with experts, as a worker's sites name them.
EXPERT_NEURONS, SHARED_NEURONS = "expert_ffn", "shared_ffn"
# The widths of experts are multiples of this; the worker has the same number (a test compares them).
EXPERT_STEP = 8


@dataclass(frozen=True)
class UnitTensors:
    """Tensors of a layer that lose slices along the dimension `dim` when a unit of this kind is removed."""

    unit: Unit
    pattern: str  # regular expression that matches the path of such a tensor within its layer
    dim: int
    part: str = ""  # tells apart neurons of one stack that keep numbers of their own; "" for those of other blocks


@dataclass(frozen=True)
class StackNames:
    """The tensors of a stack of layers, named `...{layers}.{index}.{path in the layer}`.

    The first entry of a unit, or of a part of it, is the tensor whose size shows how many units a layer has.
    """

    name: str
    layers: str
    unit_tensors: tuple[UnitTensors, ...]
    part: str = ""  # the part of config.json that holds the fields of the stack, where it is a config of its own
    moves: str = r"(?!)"  # regular expression: path of a tensor that moves to the next layer if its own is removed
    bias: str = ""  # config field that gives the feed-forward modules biases, which the repair `bias` needs

    def parts(self, unit: Unit) -> list[str]:
        """The parts of a unit; one without a name where they are all alike."""
        return list(dict.fromkeys(row.part for row in self.unit_tensors if row.unit is unit)) or [""]

    def config_in(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config that holds the fields of the stack; empty where config.json lacks it."""
        part = config.get(self.part) if self.part else config
        return part if isinstance(part, Mapping) else {}


@dataclass(frozen=True)
class ExpertFiles:
    """How the files of a checkpoint name the matrices of one expert, which the class holds in tensors of all experts.

    The files have a matrix `{block}.experts.{number}.{gate, up or down}.weight` of each expert. The class has
    `mlp.experts.gate_up_proj` (experts, gate rows and then up rows, inputs) and `mlp.experts.down_proj`.
    """

    block: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True)
class CheckpointNames:
    """The names of a family's tensors, and of the config fields that hold its sizes."""

    stacks: tuple[StackNames, ...]
    heads: str = "num_attention_heads"
    key_value_heads: str = "num_key_value_heads"
    head_size: str = "head_dim"
    hidden_size: str = "hidden_size"
    positions: str = "max_position_embeddings"  # config field with the most tokens; empty where there is no limit
    positions_where: str = ""  # config field without which there is no limit either
    numbers_after_padding: bool = False  # whether the first position is the one after the index of the padding token
    head_counts_divide: tuple[str, ...] = ()  # where one of these fields is set, heads must divide the hidden size
    embedding: str = "model.embed_tokens.weight"  # the input embedding
    # Tensors that repeat the input embedding where they are tied to it, the head last.
    tied: tuple[str, ...] = ("lm_head.weight",)
    further_embeddings: tuple[str, ...] = ()  # of the same vocabulary, which are not tied to it
    tied_by_default: bool = False  # whether a config that does not say so ties them
    # Config field, and the input embedding and the tensors that are tied to it where that field is false.
    tying_unless: tuple[str, str, tuple[str, ...]] | None = None
    transposed: str = r"(?!)"  # weights that the class holds as (in, out): a regular expression for their names
    always_tied: bool = False  # whether they are tied whatever the config says, unless they are stored and differ
    # Numbers that the class takes where config.json does not have the field, and does not compute from others.
    class_defaults: Mapping[str, int] = field(default_factory=dict)
    needed: tuple[str, ...] = ()  # fields without which the class fails
    nullable: tuple[str, ...] = ("num_key_value_heads", "head_dim")  # those of heads that may be null in config.json
    experts: str = ""  # config field with the number of experts in a layer; "" for a family without experts
    other_experts: str = ""  # a second name of that field, which the class reads too
    experts_per_token: str = "num_experts_per_tok"
    # Config fields: the experts form so many groups of equal size, and a token is sent to experts of so many of them.
    expert_groups: str = ""
    chosen_groups: str = ""
    shared_experts: str = ""  # config field: the block of the shared experts is this many side by side
    expert_files: ExpertFiles | None = None  # None where files name the tensors of experts as the class does

    def of(self, config: Mapping[str, Any]) -> Self:
        """The names of a model with this config."""
        unless, embedding, tied = self.tying_unless or ("", "", ())
        return replace(self, embedding=embedding, tied=tied) if unless and not config.get(unless, True) else self

    def value(self, config: Mapping[str, Any], field: str) -> Any:
        """The value of a field in a config, or that of the class where it is not there and the table has it."""
        names = (field, self.other_experts) if self.experts == field else (field,)
        return next((config[name] for name in names if name in config), self.class_defaults.get(field))

    @property
    def head(self) -> str:
        """The output head that may be tied; "" for a classification head, which is not."""
        return self.tied[-1] if self.tied else ""

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether a model with this config ties its embeddings, unless the stored ones differ."""
        return bool(self.always_tied or config.get("tie_word_embeddings", self.tied_by_default))


def feed_forward(down: str, up: str, part: str = "") -> tuple[UnitTensors, ...]:
    """Neurons are columns of the down projection and rows of the up (and gate) projection."""
    return (UnitTensors(Unit.ffn, rf"{down}\.weight", 1, part), UnitTensors(Unit.ffn, up + LINEAR, 0, part))


def attention(output: str, projections: str, unit: Unit = Unit.heads) -> tuple[UnitTensors, ...]:
    """Heads are columns of the output projection and rows of the query, key and value projections."""
    return (UnitTensors(unit, rf"{output}\.weight", 1), UnitTensors(unit, projections + LINEAR, 0))


def experts(modules: str, router: str, *, transposed: bool = False, buffers: str = r"(?!)") -> tuple[UnitTensors, ...]:
    """Experts are entries along the first dimension of the tensors of all experts, and rows of the router.

    The neurons of each are entries along another dimension. `buffers` matches tensors of the router that are no
    parameters.
    """
    down, up = (1, 2) if transposed else (2, 1)
    return (
        UnitTensors(Unit.ffn, rf"{modules}\.down_proj", down, EXPERT_NEURONS),
        UnitTensors(Unit.ffn, rf"{modules}\.gate_up_proj", up, EXPERT_NEURONS),
        UnitTensors(Unit.ffn, rf"{modules}\.gate_up_proj_bias", 1, EXPERT_NEURONS),
        UnitTensors(Unit.experts, rf"{modules}\.\w+", 0),
        UnitTensors(Unit.experts, router + LINEAR, 0),
        UnitTensors(Unit.experts, rf"{router}\.{buffers}", 0),
    )
