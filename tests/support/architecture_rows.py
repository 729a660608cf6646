"""The tiny models that the mathematics of scoring and repair tells apart.

That mathematics reads of a model its row of `worker.slimming.architectures`, and which of the row's modules it has.
Families that share these are one case of it; what stock code does with their layers is tested for each of them.
"""

from collections.abc import Iterable, Iterator
from functools import cache

from service.contract.options import Unit
from tests.support.tiny_models import TINY, tiny_family
from worker.slimming.architectures import ARCHITECTURES, Stack


def distinct(names: Iterable[str] = TINY) -> list[str]:
    """The first name of each set of models that the mathematics does not tell apart, in the given order."""
    first: dict[object, str] = {}
    for name in names:
        first.setdefault(_facts(name), name)
    return list(first.values())


def having(unit: Unit) -> list[str]:
    """The names of the models of which units of this kind can be removed."""
    return [name for name in TINY if unit in tiny_family(name).units]


def having_blocks() -> list[str]:
    """The names of the models whose feed-forward neurons are those of one block of linear modules in each layer."""
    return [name for name in having(Unit.ffn) if not tiny_family(name).names.experts]


def mergeable() -> list[str]:
    """The names of the models whose experts can be merged."""
    families = {name: tiny_family(name).names for name in having(Unit.experts)}
    return [name for name, names in families.items() if names.expert_files and not names.expert_groups]


@cache
def _facts(name: str) -> tuple[object, ...]:
    """The row, the kind of the head, and the modules of the row that the model has, each with a bias or without."""
    family, modules = tiny_family(name), dict(TINY[name]().named_modules())
    row = ARCHITECTURES[family.model_type]
    paths = [path for stack in row.stacks for path in _paths(stack) if path in modules]
    return row, family.kind, *((path, getattr(modules[path], "bias", None) is not None) for path in paths)


def _paths(stack: Stack) -> Iterator[str]:
    """The modules of the first layer that the row names."""
    block = stack.feed_forward
    in_layer = [*block.expand, *block.expand_gated, block.contract]
    for attention in stack.attention:
        in_layer += [attention.query, attention.key, attention.value, attention.output, attention.position_bias]
    yield from (f"{stack.layers}.0.{path}" for path in in_layer if path)
    yield stack.after_first
