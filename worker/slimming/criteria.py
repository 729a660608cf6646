"""How important a unit is: one row for each criterion, and one function for each formula.

Shape suffixes: T kept tokens of a batch, E examples, U units of a group, C channels of its contract module's input
(C = U * size), F parameters of one unit, S statistics.

A criterion says what it has to see, adds up over data what a batch shows (`observe`), and turns the sums and the
weights into scores (`conclude`). Sums are float64, so that neither the batches nor their order change a score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor

from worker.slimming.groups import Site

Needs = Literal["weights", "activations", "gradients"]


@dataclass(frozen=True)
class Options:
    """What a criterion may be told; names as in the contract's Method."""

    objective: str = "margin"
    token_reduction: str = "sum"
    sign: str = "signed"
    example_reduction: str = "square"
    seed: int = 0


@dataclass(frozen=True)
class Observation:
    """What one group shows of one batch; `gradient` is there for criteria that need it. See attribution.py."""

    activation_BTC: Tensor
    gradient_BTC: Tensor | None
    mask_BT: Tensor
    example_B: Tensor
    num_examples: int
    size: int  # channels of a unit


@dataclass(frozen=True)
class Evidence:
    """What is known of one group when all batches have been seen."""

    site: Site
    sums_SU: Tensor  # float64; S is 0 where the criterion observes nothing
    num_examples: int
    num_tokens: int
    weights_UF: tuple[Tensor, ...]  # of the contract module first, then of the expanding ones


@dataclass(frozen=True)
class Criterion:
    """One way to score. Units with the lowest scores are removed."""

    needs: Needs
    conclude: Callable[[Evidence, Options], Tensor]  # -> score (U), float32
    observe: Callable[[Observation, Options], Tensor] | None = None  # -> what the batch adds to the sums (S, U)
