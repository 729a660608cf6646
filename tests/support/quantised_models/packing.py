"""The blocks of a matrix that have a scale each, and words of 32 bits that hold several integers."""

import torch
from torch import Tensor


def blocks_of(shape: tuple[int, ...], size: tuple[int, int]) -> list[tuple[int, int, slice, slice]]:
    """(row of blocks, column of blocks, rows, columns) of every block; the last ones may be smaller."""
    rows = [slice(start, start + size[0]) for start in range(0, shape[0], size[0])]
    columns = [slice(start, start + size[1]) for start in range(0, shape[1], size[1])]
    return [(i, j, row, column) for i, row in enumerate(rows) for j, column in enumerate(columns)]


def packed(values: Tensor, bits: int) -> Tensor:
    """Signed integers, each plus half the range, in words of 32 bits along the rows, the first in the lowest bits."""
    words = torch.zeros(values.shape[0], -(-values.shape[1] * bits // 32), dtype=torch.int64)
    for column in range(values.shape[1]):
        word, place = divmod(column * bits, 32)
        words[:, word] |= (values[:, column].long() + 2 ** (bits - 1)) << place
    return words.to(torch.uint32).view(torch.int32)


def packed_unsigned(values: Tensor, bits: int) -> Tensor:
    """Unsigned integers in words of 32 bits along the rows, the first in the lowest bits."""
    return packed(values - 2 ** (bits - 1), bits)
