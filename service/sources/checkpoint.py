"""A checkpoint as its small files describe it: the config, and the shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service.contract.answers.report import Dequantised
from service.contract.errors import InvalidModel
from service.models.families.family import ModelFamily
from service.models.families.source_config import plain_name
from service.models.tensors.names import CheckpointNames, StackNames
from service.sources.adapter import Adapter
from service.sources.model_directory import ModelDirectory
from service.sources.quantised_weights import StoredWeights, plain_config, stored_weights
from service.sources.safetensors_header import DTYPES, FLOATS, Tensors, TensorShape
from service.sources.stored_experts import in_class

MAX_UNITS = 2**17  # of a kind in a layer; a larger number in a foreign file would keep the planning busy for hours


@dataclass(frozen=True)
class Checkpoint:
    """The config and the tensors of a model, dequantised, its adapter merged, under the names of the family's class.

    A tensor that repeats the input embedding is left out, and one that the model may leave unused.
    """

    family: ModelFamily
    config: Mapping[str, Any]
    tensors: Tensors
    stored_bytes: int  # size of the files that hold the weights
    dequantised: Dequantised | None = None  # None where the weights are not quantised
    adapter: Adapter | None = None
    has_unread_adapter: bool = False  # whether there is an adapter that the worker alone reads
    # Rows of the embedding that stay whatever the texts are; None where the tokenizer has not been read for it.
    least_rows: int | None = None

    @property
    def names(self) -> CheckpointNames:
        """The names of the family's tensors and config fields."""
        return self.family.names.of(self.config)

    @property
    def dtype(self) -> str:
        """The dtype in which the slim checkpoint is written, as safetensors spells it."""
        named = DTYPES.get(str(self.config.get("dtype") or self.config.get("torch_dtype")))
        stored = (tensor.dtype for tensor in self.tensors.values())
        return next((dtype for dtype in (named, *stored) if dtype in FLOATS), "F32")

    @property
    def last_stack(self) -> StackNames:
        """The stack that answers: the decoder of an encoder-decoder, else the only one."""
        return self.names.stacks[-1]

    def value(self, field: str, stack: StackNames) -> Any:
        """The value of a field in the config of a stack, or that of the class where it is not there and the table has
        it."""
        return self.names.value(stack.config_in(self.config), field)

    def number(self, field: str, stack: StackNames) -> int:
        """A count in the config of a stack. Raises InvalidModel if the config has no such count."""
        value = self.value(field, stack)
        if type(value) is not int or not 0 < value <= MAX_UNITS:
            place = f"{stack.part}.{field}" if stack.part else field
            message = f"config.json must have a whole number from 1 to {MAX_UNITS} in {place!r}"
            raise InvalidModel(message, param="model.uri")
        return value


def read_checkpoint(model: ModelDirectory) -> Checkpoint:
    """The config and the headers of the weights of a model. Raises as the properties of `ModelDirectory` do."""
    family, stored = model.family, {name: tensor for header in model.headers for name, tensor in header.tensors.items()}
    weights = stored_weights(stored, model.config, family, model.source.uri)
    dequantised = weights.dequantised
    names = _names_in_model(weights.tensors, family, model.config, has_adapter=model.source.adapter_uri is not None)
    checkpoint = Checkpoint(
        family,
        plain_config(model.config, dequantised.dtype) if dequantised else model.config,
        in_class(_once(model, weights, names), family, model.config),
        sum(header.file_bytes for header in model.headers),
        dequantised,
        model.adapter,
        has_unread_adapter=model.adapter is None and model.source.adapter_uri is not None,
    )
    return replace(checkpoint, tensors=_with_adapter(checkpoint)) if checkpoint.adapter else checkpoint


def _names_in_model(
    stored: Tensors, family: ModelFamily, config: Mapping[str, Any], *, has_adapter: bool
) -> dict[str, str]:
    """Name in the model -> name in the files, of the tensors that the model must use."""
    row, pretrained = family.tensors, family.pretrained
    replaced = pretrained.tensors if pretrained and has_adapter else r"(?!)"
    unused = [name for name in stored if family.may_leave_unused(name, config)]
    used = [name for name in stored if name not in unused and not re.fullmatch(replaced, name)]
    has_prefix = any(plain_name(name).startswith(row.prefix) for name in used)
    return {row.full_name(plain_name(name), has_prefix): name for name in used}


def _once(model: ModelDirectory, weights: StoredWeights, in_files: Mapping[str, str]) -> dict[str, TensorShape]:
    """The tensors as a model holds them: those that are tied once, those that differ each.

    `in_files`: name in the model -> name in the files.
    """
    names, found = model.family.names.of(model.config), {name: weights.tensors[old] for name, old in in_files.items()}
    stored = {name: weights.stored_name(old) for name, old in in_files.items()}
    if not names.is_tied(model.config):
        return found
    first, *others = [name for name in (names.embedding, *names.tied) if name in found] or [""]
    equal = [name for name in others if model.may_be_equal(stored[first], stored[name])]
    if len(equal) == len(others) or names.always_tied:
        return {name: tensor for name, tensor in found.items() if name not in equal}
    # Where the head is not tied, the class ties none of them.
    return found | {name: found[first] for name in names.tied if name not in found}


def _with_adapter(checkpoint: Checkpoint) -> dict[str, TensorShape]:
    """The tensors with those that the adapter brings, and a copy of each tied weight that it changes alone."""
    adapter, names, found = checkpoint.adapter, checkpoint.names, dict(checkpoint.tensors)
    assert adapter is not None
    found |= {name: tensor.cast(checkpoint.dtype) for name, tensor in adapter.replaced.items()}
    changed = adapter.changed
    if names.embedding in found:
        untied = {name for name in names.tied if name in changed or names.embedding in changed}
        if names.head in untied and not names.always_tied:
            untied = set(names.tied)  # where the head is not tied, the class ties none of them
        is_tied = names.is_tied(checkpoint.config)
        found |= {name: found[names.embedding] for name in untied if is_tied and name not in found}
    return found
