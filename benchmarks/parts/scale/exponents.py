"""How cost grows with a size: the slope of its logarithm over that of the size, measured and by operation counts."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.parts.scale.measure import PARTS, Cost
from benchmarks.parts.scale.operations import memory, operations
from benchmarks.parts.scale.shapes import Shape


class Sizes(NamedTuple):
    """The values that a size takes."""

    quick: tuple[int, ...]
    full: tuple[int, ...]


AXES = {
    "width": Sizes((512, 1024, 2048), (512, 1024, 2048, 4096)),
    "layers": Sizes((2, 8), (2, 4, 8, 16)),
    "rows": Sizes((16, 64), (16, 32, 64, 128, 256)),
    "length": Sizes((32, 128), (32, 64, 128, 256, 512)),
}


class Exponents(NamedTuple):
    """The exponents of one part of scoring, and those that operations and bytes lead to at the same sizes."""

    seconds: float
    expected_seconds: float
    memory: float
    expected_memory: float

    @property
    def rounded(self) -> dict[str, float]:
        """For the JSON object."""
        return {name: round(value, 2) for name, value in self._asdict().items()}


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The least-squares slope of log(value) over log(size)."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def exponents(sizes: Sequence[int], shapes: Sequence[Shape], costs: Sequence[Cost]) -> dict[str, Exponents]:
    """Part -> its exponents over the sizes that the shapes have."""

    def slope(values: Sequence[Any]) -> float:
        return exponent(sizes, values)

    return {
        part: Exponents(
            slope([cost.parts[part].seconds for cost in costs]),
            slope([operations(shape, part) for shape in shapes]),
            slope([cost.parts[part].peak_bytes for cost in costs]),
            slope([memory(shape, part) for shape in shapes]),
        )
        for part in PARTS
    }
