"""The tensors of a model by its modules: what a checkpoint must hold, and what it may.

A row names modules. `{q,k}_proj` stands for two of them, and "" for the layer itself. Each has a `weight`, and a `bias`
where the row says so.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

Config = Mapping[str, Any]


def always(config: Config) -> bool:
    """The condition of a module or a bias that every model of the family has."""
    return True


def never(config: Config) -> bool:
    """The condition of a bias that no model of the family has."""
    return False


def every_layer(config: Config, layer: int) -> bool:
    """The condition of modules that all layers have."""
    return True


def field(name: str, default: bool = False) -> Callable[[Config], bool]:
    """The condition that a field of config.json is set; `default` where config.json does not have it."""
    return lambda config: bool(config.get(name, default))


@dataclass(frozen=True)
class Modules:
    """Modules of a model, and where they and their biases are present."""

    paths: str
    bias: Callable[[Config], bool] = never
    where: Callable[[Config], bool] = always
    first_layer: bool = False  # whether the first layer alone has them
    later_layers: bool = False  # whether all layers but the first have them
    kind: str = ""  # the type of the layers that have them, if not all do
    parameters: tuple[str, ...] = ("weight",)
    in_layer: Callable[[Config, int], bool] = every_layer  # whether the layer with an index has them

    def tensors(self, config: Config) -> list[str]:
        """The names of the tensors of the modules."""
        if not self.where(config):
            return []
        leaves = [*self.parameters, "bias"] if self.bias(config) else self.parameters
        return [f"{path}.{leaf}" if path else leaf for path in _expanded(self.paths) for leaf in leaves]

    def are_in(self, index: int, kind: str, config: Config) -> bool:
        """Whether the layer with this index and of this type has the modules."""
        is_place = not (self.first_layer if index else self.later_layers) and self.kind in ("", kind)
        return is_place and self.in_layer(config, index)


@dataclass(frozen=True)
class ModelTensors:
    """The modules of a model: outside its layers, and in each layer of its stacks."""

    outside: tuple[Modules, ...]
    layers: Mapping[str, tuple[Modules, ...]]  # path of the layers -> their modules
    prefix: str = ""  # of the model without its head; checkpoints of that alone leave it out
    token_head: tuple[Modules, ...] | None = None  # None: the head for sequences serves tokens as well
    may_hold: str = r"(?!)"  # regular expression: further tensors that are used where they are there

    def with_score(self) -> Self:
        """The tensors of a decoder with a classification head in place of that over the vocabulary."""
        inside = tuple(modules for modules in self.outside if modules.paths.startswith(self.prefix))
        return replace(self, outside=(*inside, Modules("score")))

    def without_head(self) -> Self:
        """The tensors of an encoder without a head. A pooler behind the last layer is used where it is there."""
        pooler = f"{self.prefix}pooler."
        inside = tuple(
            replace(modules, paths=path)
            for modules in self.outside
            for path in _expanded(modules.paths)
            if path.startswith(self.prefix) and not path.startswith(pooler)
        )
        return replace(self, outside=inside, may_hold=rf"{re.escape(pooler)}dense\.(weight|bias)")

    def with_token_head(self) -> Self:
        """The tensors of an encoder with a head for tokens in place of that for sequences."""
        if self.token_head is None:
            return self
        inside = tuple(modules for modules in self.outside if modules.paths.startswith(self.prefix))
        return replace(self, outside=(*inside, *self.token_head))

    @property
    def heads(self) -> tuple[str, ...]:
        """The paths of the modules of the head."""
        paths = (path for modules in self.outside for path in _expanded(modules.paths))
        return tuple(path for path in paths if not path.startswith(self.prefix))

    def names(self, config: Config, counts: Mapping[str, int]) -> set[str]:
        """The names of all tensors of a model whose stacks have these numbers of layers."""
        found = {name for modules in self.outside for name in modules.tensors(config)}
        for path, rows in self.layers.items():
            kinds = layer_kinds(config, counts[path])
            for index, modules in product(range(counts[path]), rows):
                if modules.are_in(index, kinds[index], config):
                    found |= {f"{path}.{index}.{name}" for name in modules.tensors(config)}
        return found

    def full_name(self, name: str, has_prefix: bool) -> str:
        """The name of a tensor in the model with its head; `has_prefix`: whether the checkpoint's names have one."""
        return name if has_prefix or name.startswith(self.heads) else self.prefix + name


def layer_kinds(config: Config, count: int) -> list[str]:
    """The type of each layer: as `layer_types` says, else every fourth one, or as many as config.json says, is of
    full attention."""
    types, every = config.get("layer_types"), config.get("full_attention_interval", 4)
    if isinstance(types, list) and len(types) >= count:
        return [str(kind) for kind in types]
    every = every if type(every) is int and every > 0 else 4
    return ["full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(count)]


def _expanded(paths: str) -> Iterator[str]:
    """The paths that braces stand for."""
    parts = [part.split(",") for part in re.split(r"[{}]", paths)]
    yield from ("".join(chosen) for chosen in product(*parts))


# Modules that decoders share with other models.
ATTENTION_BIAS = field("attention_bias")
GATED_BLOCK = Modules("mlp.{gate,up,down}_proj")
