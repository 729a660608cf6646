"""Which tensors of a checkpoint become smaller when units of a kind are removed: the types of the rows in `families`.

Tensors are named as in the files of a checkpoint. `worker.slimming.architectures` names the same tensors by the modules
of a loaded model; tests/worker/slimming/test_architectures.py compares the two.
"""

from dataclasses import dataclass

from service.contract.options import Unit

LINEAR = r"\.(weight|bias)"


@dataclass(frozen=True)
class UnitTensors:
    """Tensors of a layer that lose slices along the dimension `dim` when a unit of this kind is removed."""

    unit: Unit
    pattern: str  # regular expression that matches the path of such a tensor within its layer
    dim: int


@dataclass(frozen=True)
class StackNames:
    """The tensors of a stack of layers, named `...{layers}.{index}.{path in the layer}`.

    The first entry of a unit is the tensor whose size shows how many units a layer has.
    """

    name: str
    layers: str
    unit_tensors: tuple[UnitTensors, ...]
    bias: str = ""  # config field that gives the feed-forward modules biases, which the repair `bias` needs


@dataclass(frozen=True)
class CheckpointNames:
    """The names of a family's tensors, and of the config fields that hold its sizes."""

    stacks: tuple[StackNames, ...]
    heads: str = "num_attention_heads"
    key_value_heads: str = "num_key_value_heads"
    head_size: str = "head_dim"
    hidden_size: str = "hidden_size"
    positions: str = "max_position_embeddings"  # config field with the most tokens; empty where there is no limit
    numbers_after_padding: bool = False  # whether the first position is the one after the index of the padding token
    head_counts_divide: tuple[str, ...] = ()  # where one of these fields is set, heads must divide the hidden size
    embedding: str = "model.embed_tokens.weight"  # the input embedding
    tied: tuple[str, ...] = ("lm_head.weight",)  # tensors that repeat the input embedding where they are tied to it
    tied_by_default: bool = False  # whether a config that does not say so ties them
    transposed: str = r"(?!)"  # weights that the class holds as (in, out): a regular expression for their names
    always_tied: bool = False  # whether they are tied whatever the config says, unless they are stored and differ


def feed_forward(down: str, up: str) -> tuple[UnitTensors, ...]:
    """Neurons are columns of the down projection and rows of the up (and gate) projection."""
    return (UnitTensors(Unit.ffn, rf"{down}\.weight", 1), UnitTensors(Unit.ffn, up + LINEAR, 0))


def attention(output: str, projections: str, unit: Unit = Unit.heads) -> tuple[UnitTensors, ...]:
    """Heads are columns of the output projection and rows of the query, key and value projections."""
    return (UnitTensors(unit, rf"{output}\.weight", 1), UnitTensors(unit, projections + LINEAR, 0))
