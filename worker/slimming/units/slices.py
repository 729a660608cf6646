"""The slices of a model's parameters that belong to units: which they are, and their weights.

Shape suffixes: U units of a group, F parameters of one unit.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from worker.slimming.units.groups import Group, ParameterSlice


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer of the model."""
    path, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(path), leaf)
    assert isinstance(found, Tensor)
    return found


def weights_UF(group: Group, parameters: Callable[[str], Tensor]) -> tuple[Tensor, ...]:
    """The weights of each unit, one tensor per matrix in the order of the slices; `parameters` maps name to tensor."""
    if group.hook_point == "residual":
        return tuple(parameters(part.parameter).reshape(1, -1) for part in group.slices)
    matrices = ((part, parameters(part.parameter)) for part in group.slices)
    return tuple(_unit_weights(group, part, matrix) for part, matrix in matrices if matrix.dim() > 1 + part.by_row)


def _unit_weights(group: Group, part: ParameterSlice, matrix: Tensor) -> Tensor:
    """The weights of each unit in one matrix, or in one of each row (U, F)."""
    length = group.count // (group.rows if part.by_row else 1) * part.size
    first = int(part.by_row)
    slices = matrix.movedim(part.dim, first).narrow(first, part.start, length)
    return slices.reshape(group.count, -1)


def config_of(model: nn.Module) -> Any:
    """The config of the model, a type of transformers."""
    return model.config


def has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has a module at this path."""
    try:
        return bool(model.get_submodule(path))
    except AttributeError:
        return False


def rows_of(model: nn.Module, path: str, dim: int, size: int, start: int = 0) -> list[ParameterSlice]:
    """The slices of units that are outputs of a linear module: of its weight, and of its bias if it has one."""
    slices = [ParameterSlice(f"{path}.weight", dim, size, start)]
    if model.get_submodule(path).bias is not None:
        slices.append(ParameterSlice(f"{path}.bias", 0, size, start))
    return slices


def parameters_of_unit(model: nn.Module, slices: Sequence[ParameterSlice]) -> int:
    """The number of weights and biases of one unit."""
    return sum(_parameters_in(model.get_parameter(part.parameter), part) for part in slices)


def _parameters_in(parameter: Tensor, part: ParameterSlice) -> int:
    units = parameter.shape[part.dim] * (parameter.shape[0] if part.by_row else 1)
    return parameter.numel() // units * part.size
