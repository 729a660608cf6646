"""Weights in AWQ, stored by hand."""

from typing import Any

import torch
from torch import Tensor

from tests.support.quantised_models.gptq import gptq
from tests.support.quantised_models.packing import packed_unsigned
from tests.support.quantised_models.stored import Format, Stored

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the columns in a word, from the lowest bits


def awq(size: int) -> Any:
    """Stores unsigned integers of 4 bits as AutoAWQ does for its matrix products (`gemm`)."""

    def store(module: str, weight: Tensor) -> Stored:
        parts, dense = gptq(4, size, first_version=False, index=False)(module, weight)
        values, zeros = (_unordered(parts[name], is_rows) for name, is_rows in (("qweight", True), ("qzeros", False)))
        ordered = {"qweight": _ordered(values), "qzeros": _ordered(zeros)}
        return Stored(ordered | {"scales": parts["scales"]}, dense)

    return store


def _unordered(words: Tensor, is_rows: bool) -> Tensor:
    """The integers of 4 bits in words along the rows or the columns."""
    words = words.T if is_rows else words
    integers = [[(word >> (4 * place)) & 15 for word in row for place in range(8)] for row in words.tolist()]
    return torch.tensor(integers).T if is_rows else torch.tensor(integers)


def _ordered(values: Tensor) -> Tensor:
    columns = [8 * word + column for word in range(values.shape[1] // 8) for column in AWQ_ORDER]
    return packed_unsigned(values[:, columns], 4)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
FORMATS: dict[str, Format] = {"awq": Format(AWQ, awq(16), "AWQ with 4 bits")}
