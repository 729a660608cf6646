"""Groups of units: what a group is, its site, and the parts of parameters that belong to its units.

A group is the set of units that share one width, for example the neurons of one layer. A unit is a slice of each of
several parameters, and is removed by removing these slices.

Shape suffixes: U units of a group, K units that stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from torch import Tensor


class UnitUnavailable(ValueError):
    """Raised for a unit of which a stock config of the family cannot hold fewer."""


class Site(NamedTuple):
    """The name of a group. `str(site)`, such as "decoder.3.ffn", is the key of its tensor in files.

    `unit` tells apart groups of one kind in a layer: "heads" and "cross_heads" are both of the API's unit `heads`.
    """

    stack: str
    layer: int
    unit: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.layer}.{self.unit}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The site whose string form is `key`."""
        stack, layer, unit = key.split(".")
        return cls(stack, int(layer), unit)


# The widths of experts are multiples of this: grouped matrix products, by which stock classes compute them, take rows
# of a multiple of 16 bytes, which are 8 numbers of half precision.
EXPERT_STEP = 8
VOCABULARY = Site("model", 0, "vocabulary")  # the rows of embedding and head, which belong to no layer

# Site of a group -> the scores of its units (U).
Scores = Mapping[Site, Tensor]

# Site of a group -> the sorted indices of its units that stay (K). Groups that it does not name stay whole.
Kept = Mapping[Site, Tensor]


class ParameterSlice(NamedTuple):
    """The part of a parameter that belongs to the units of a group.

    Unit i has the indices from `start + i * size` to `start + (i + 1) * size` along `dim`. With `by_row` the parameter
    has an entry for each row of the group along its first dimension, and i is the number of the unit in its row.
    """

    parameter: str
    dim: int
    size: int
    start: int = 0
    by_row: bool = False


@dataclass(frozen=True)
class Group:
    """The units of one site, each of which can be removed alone. Paths are relative to the model.

    The activation of the units is observed at `module`, as `hook_point` says: the input or the output of the module,
    what a layer adds to the residual stream, what each of the experts in the module adds to its output, or the neurons
    within these experts. The first of `slices` is a part of the weight that is multiplied with the activation. The rows
    of the vocabulary are not observed. In a checkpoint for stock transformers, groups with the same `fields` keep the
    same number of units in each row.
    """

    site: Site
    kind: str  # the unit of the API: ffn, heads, head_dims, layers, experts or vocabulary
    count: int  # units
    parameters: int  # weights and biases of one unit
    slices: tuple[ParameterSlice, ...]
    module: str  # path of the module at which the activation is observed
    # "residual": output minus input of a layer; "none": not observed
    hook_point: Literal["input", "output", "residual", "experts", "expert neurons", "none"]
    size: int  # channels of the activation of a unit
    fields: tuple[tuple[str, int], ...]  # config fields, and what one kept unit adds to the value of each
    rows: int = 1  # the units form this many rows of equal length, and each row keeps the same number
    tie: str = ""  # groups with the same tie keep the same indices
    level: str = ""  # groups with the same level keep the same number of units in every layout
    allowed: tuple[int, ...] = ()  # numbers of units that the config can hold; empty: every number
    step: int = 1  # each row keeps a multiple of so many units
    within: str = ""  # unit of the site, in the same layer, whose units contain those of this group
    is_added: bool = True  # whether the output of the module is added to the residual stream as it is
    buffers: tuple[ParameterSlice, ...] = ()  # of tensors of the model that are no parameters
    router: str = ""  # path of the module that sends each token to some of the units
    # Paths of the module that reads the residual stream before the experts, and of the one whose output it is behind.
    stream: tuple[str, str] = ("", "")
    # Config fields that are no more than the number of units that stay, and the value of each in the whole model.
    limited: tuple[tuple[str, int], ...] = ()
