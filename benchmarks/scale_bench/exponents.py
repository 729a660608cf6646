"""How cost grows with a size: the slope of its logarithm over that of the size."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.scale_bench.measure import Cost


class Axis(NamedTuple):
    """A size that is varied, and the exponents of each part: of seconds, of peak memory."""

    quick: tuple[int, ...]
    full: tuple[int, ...]
    seconds: dict[str, float]
    memory: dict[str, float]


# A pass is linear in the width, Gram matrices are quadratic, and the elimination of all units of a layer is cubic. Rows
# come in batches of a fixed number of tokens, so that memory depends on neither their number nor their length.
AXES = {
    "width": Axis(
        (512, 1024, 2048),
        (512, 1024, 2048, 4096),
        {"attribution": 1, "moments": 2, "elimination": 3},
        {"attribution": 1, "moments": 2, "elimination": 2},
    ),
    "layers": Axis(
        (2, 4, 8),
        (2, 4, 8, 16),
        {"attribution": 1, "moments": 1, "elimination": 1},
        {"attribution": 1, "moments": 1, "elimination": 1},
    ),
    "rows": Axis(
        (16, 32, 64),
        (16, 32, 64, 128, 256),
        {"attribution": 1, "moments": 1, "elimination": 0},
        {"attribution": 0, "moments": 0, "elimination": 0},
    ),
    "length": Axis(
        (32, 64, 128),
        (32, 64, 128, 256, 512),
        {"attribution": 1, "moments": 1, "elimination": 0},
        {"attribution": 0, "moments": 0, "elimination": 0},
    ),
}


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The least-squares slope of log(value) over log(size)."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def exponents(sizes: Sequence[int], costs: Sequence[Cost]) -> dict[str, dict[str, float]]:
    """Part -> the exponents of its seconds and of its peak memory."""
    return {
        part: {
            "seconds": round(exponent(sizes, [cost.parts[part].seconds for cost in costs]), 2),
            "memory": round(exponent(sizes, [cost.parts[part].peak_bytes for cost in costs]), 2),
        }
        for part in costs[0].parts
    }
