"""Whether the tensors of a checkpoint and its adapter are those of the class that loads it."""

import re
from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.contract.options import Unit
from service.models.families.config_values import LAYER_COUNTS
from service.models.families.family import DERIVED_SIZE
from service.models.tensors.adapter_names import module_and_part, name_in_files
from service.sources.adapter import Adapter
from service.sources.checkpoint import Checkpoint

BIAS = "lora_B.bias"  # the bias of a module's adapter


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raise InvalidModel unless the class of the family needs every tensor of checkpoint and adapter, and no others."""
    row, model_class = checkpoint.family.tensors, checkpoint.family.model_class
    counts = {layers: _layer_count(checkpoint, layers) for layers in row.layers}
    needed = row.names(checkpoint.config, counts)
    brought = checkpoint.adapter.replaced.keys() if checkpoint.adapter else set()
    for name in sorted(checkpoint.tensors.keys() - needed - brought):
        if not re.fullmatch(row.may_hold, name):
            message = f"{model_class} does not use the tensor {name}: give a checkpoint of this class"
            raise InvalidModel(message, param="model.uri")
    lacking = sorted(needed - checkpoint.tensors.keys() - _repeated(checkpoint))
    if lacking and not checkpoint.has_unread_adapter:
        message = f"{model_class} needs weights that the checkpoint lacks: {', '.join(lacking[:3])}"
        raise InvalidModel(message, param="model.uri")
    _check_vocabulary(checkpoint)
    if checkpoint.adapter:
        _check_adapter(checkpoint.adapter, checkpoint, needed)


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Raise InvalidModel for an embedding of another number of tokens than config.json says."""
    config, name = checkpoint.config, checkpoint.names.embedding
    has_own = ".decoder." in name and config.get("decoder_vocab_size") is not None
    field = "decoder_vocab_size" if has_own else "vocab_size"
    size, embedding = config.get(field), checkpoint.tensors.get(name)
    if embedding is not None and type(size) is int and embedding.shape[:1] != (size,):
        message = f"config.json says {size} in {field!r}, and {name} has the shape {embedding.shape}"
        raise InvalidModel(f"{message}: give the config that belongs to the weights", param="model.uri")


def check_head_count(checkpoint: Checkpoint) -> None:
    """Raise InvalidModel for a head count that the stock class refuses."""
    names, family = checkpoint.names, checkpoint.family
    for stack in names.stacks:
        config = stack.config_in(checkpoint.config)
        must_divide = any(config.get(field) for field in names.head_counts_divide)
        if not must_divide and family.refused.get(Unit.heads) != DERIVED_SIZE:
            continue
        hidden, heads = checkpoint.number(names.hidden_size, stack), checkpoint.number(names.heads, stack)
        if hidden % heads:
            message = f"{family.model_class} cannot have {heads} heads: they do not divide its hidden size of {hidden}"
            raise InvalidModel(message, param="model.uri")


def _layer_count(checkpoint: Checkpoint, layers: str) -> int:
    """Layers of a stack by its tensors. Raises InvalidModel where config.json says another number."""
    pattern = re.compile(rf"{re.escape(layers)}\.(\d{{1,4}})\..+")
    count = len({match[1] for name in checkpoint.tensors if (match := pattern.fullmatch(name))})
    for field in LAYER_COUNTS.get(layers, ("num_hidden_layers",)):
        said = _value(checkpoint.config, field)
        if said is not None:
            if said != count:
                message = f"config.json says {said} in {field!r}, and the weights hold {count} layers {layers}"
                raise InvalidModel(message, param="model.uri")
            break
    return count


def _value(config: Mapping[str, Any], path: str) -> object:
    """The value of a field of a config, or of a part of it."""
    part, _, field = path.rpartition(".")
    owner = config.get(part) if part else config
    return owner.get(field) if isinstance(owner, Mapping) else None


def _repeated(checkpoint: Checkpoint) -> set[str]:
    """The tensors that a checkpoint need not hold, because they repeat another one that it holds."""
    names, config = checkpoint.names, checkpoint.config
    group = {names.embedding, *names.tied}
    return group if names.is_tied(config) and group & checkpoint.tensors.keys() else set()


def _check_adapter(adapter: Adapter, checkpoint: Checkpoint, needed: set[str]) -> None:
    """Raise InvalidModel for the first tensor of the adapter that belongs to no module, or has another shape."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    shapes |= dict.fromkeys(_repeated(checkpoint), shapes.get(checkpoint.names.embedding, ()))
    for name in sorted(adapter.tensors):
        module, part = module_and_part(name)
        target = name_in_files(checkpoint.family.model_type, f"{module}.weight" if part else module)
        if target not in needed or target not in shapes:
            message = f"the adapter's tensor {name} belongs to no module of {checkpoint.family.model_class}"
            message += ": give an adapter of this model with this head"
            raise InvalidModel(message, param="model.adapter_uri")
        if part == BIAS and target.replace(".weight", ".bias") not in checkpoint.tensors:
            message = f"the adapter's tensor {name} cannot be merged, because {module} has no bias"
            raise InvalidModel(f"{message}: train the adapter without `lora_bias`", param="model.adapter_uri")
        if not _fits(part, adapter.tensors[name].shape, shapes[target]):
            message = (
                f"the adapter's tensor {name} does not fit the weight {target}, which has the shape {shapes[target]}"
            )
            raise InvalidModel(message, param="model.adapter_uri")


def _fits(part: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether a matrix of the adapter has a side of its weight."""
    if part.startswith("lora_A.weight") or part == "lora_embedding_A":
        return shape[-1] in weight
    if part.startswith("lora_B.weight") or part == "lora_embedding_B":
        return shape[0] in weight
    return True
