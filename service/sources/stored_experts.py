"""The tensors of experts: as the files of a checkpoint hold them, and as the class of the family does.

Files have the matrices of each expert by themselves. transformers joins them when it loads a model, and takes them
apart again when it saves it (its `conversion_mapping`). Files that hold the joined tensors are loaded too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.models.families.family import ModelFamily
from service.models.families.per_layer import is_per_layer
from service.models.tensors.names import ExpertFiles
from service.sources.safetensors_header import Tensors, TensorShape

BLOCK = "mlp"  # path in a layer of the module with the experts
GATE_UP, DOWN = f"{BLOCK}.experts.gate_up_proj", f"{BLOCK}.experts.down_proj"
LAYER = r"((?:.*\.)?layers\.\d{1,4}\.)"  # of the name of a tensor: up to the path in its layer


def in_class(tensors: Tensors, family: ModelFamily, config: Mapping[str, Any]) -> dict[str, TensorShape]:
    """The tensors by the names of the class, those of experts joined.

    Raises InvalidModel where the experts of a layer are not complete, or not as many as config.json says.
    """
    files, names = family.names.expert_files, family.names
    found = dict(tensors) if files is None else _joined(tensors, files)
    said = names.value(config, names.experts) if names.experts else None
    for name, tensor in found.items():
        if said is not None and name.endswith(GATE_UP) and tensor.shape[:1] != (said,) and not is_per_layer(config):
            message = f"config.json says {said} in {names.experts!r}, and {name} has {tensor.shape[0]} experts"
            raise InvalidModel(f"{message}: give a model whose files agree", param="model.uri")
    return found


def in_files(tensors: Tensors, files: ExpertFiles | None) -> dict[str, TensorShape]:
    """The tensors by the names that transformers writes, those of experts one by one."""
    if files is None:
        return dict(tensors)
    return {own: shape for name, tensor in tensors.items() for own, shape in _written(name, tensor, files)}


def _joined(tensors: Tensors, files: ExpertFiles) -> dict[str, TensorShape]:
    one = re.compile(
        rf"{LAYER}(?:{files.block}|{BLOCK})\.experts\.(\d{{1,4}})\.({files.gate}|{files.up}|{files.down})\.weight"
    )
    found: dict[str, TensorShape] = {}
    experts: dict[str, dict[str, dict[int, TensorShape]]] = {}  # layer -> matrix -> number of the expert -> shape
    for name, tensor in tensors.items():
        if match := one.fullmatch(name):
            of_layer = experts.setdefault(match[1], {files.gate: {}, files.up: {}, files.down: {}})
            of_layer[match[3]][int(match[2])] = tensor
        else:
            found[re.sub(rf"^{LAYER}{files.block}\.", rf"\1{BLOCK}.", name)] = tensor
    for layer, matrices in experts.items():
        _check_complete(layer, matrices)
        gate, down = matrices[files.gate][0], matrices[files.down][0]
        count, (rows, columns) = len(matrices[files.gate]), gate.shape
        found[f"{layer}{GATE_UP}"] = TensorShape(gate.dtype, (count, 2 * rows, columns))
        found[f"{layer}{DOWN}"] = TensorShape(down.dtype, (count, *down.shape))
    return found


def _check_complete(layer: str, matrices: Mapping[str, Mapping[int, TensorShape]]) -> None:
    """Raise InvalidModel unless every expert has its three matrices, of the same shapes as those of the others."""
    numbers = set().union(*matrices.values())
    for name, of_expert in matrices.items():
        lacking = sorted({*range(max(numbers) + 1)} - of_expert.keys())
        if lacking:
            message = f"the weights lack the matrix {name} of the expert {lacking[0]} of {layer.removesuffix('.')}"
            raise InvalidModel(f"{message}: give a complete model", param="model.uri")
        if len({tensor.shape for tensor in of_expert.values()}) > 1 or len(of_expert[0].shape) != 2:
            message = f"the experts of {layer.removesuffix('.')} have matrices {name} of several shapes"
            raise InvalidModel(f"{message}: give a model whose experts are alike", param="model.uri")


def _written(name: str, tensor: TensorShape, files: ExpertFiles) -> Iterator[tuple[str, TensorShape]]:
    layer, block, path = name.partition(f".{BLOCK}.")
    own = f"{layer}.{files.block}."
    if not block or not path.startswith("experts."):
        yield (f"{own}{path}" if block else name), tensor
        return
    count, *shape = tensor.shape
    is_down = path == DOWN.removeprefix(f"{BLOCK}.")
    matrices = (files.down,) if is_down else (files.gate, files.up)
    each = TensorShape(tensor.dtype, (shape[0] if is_down else shape[0] // 2, shape[1]))
    for number in range(count):
        yield from ((f"{own}experts.{number}.{matrix}.weight", each) for matrix in matrices)
