"""Makes rows private: their tokens by a mechanism, their labels by randomised response. Counts what that costs.

Shape suffixes: N tokens or labels of all rows.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.contract.row_values import RowValues
from service.privacy.adaptive_neighbourhood import AdaptiveNeighbourhood
from service.privacy.columns import PrivateColumns
from service.privacy.exponential_mechanism import ExponentialMechanism
from service.privacy.mechanisms import MechanismName
from service.privacy.model_tokens import ModelTokens
from service.privacy.randomised_response import respond
from service.privacy.token_space import TokenSpace
from service.privacy.uniform_numbers import Uniform
from service.rows.row import Row


class Mechanism(Protocol):
    """Replaces tokens, each independently of the others."""

    @property
    def name(self) -> str:
        """The mechanism as a `MechanismName`."""

    @property
    def epsilon(self) -> float:
        """The budget that was asked for."""

    @property
    def local_epsilon(self) -> float:
        """The budget of local differential privacy that one token costs."""

    def replace(self, token_N: NDArray[np.int64], uniform: Uniform) -> NDArray[np.int64]:
        """A token in the place of each (N)."""

    def unchanged_share(self) -> float:
        """The share of the tokens that stay as they are, computed from the vocabulary alone."""


MECHANISMS: dict[MechanismName, Callable[[TokenSpace, float], Mechanism]] = {
    MechanismName.exponential: ExponentialMechanism,
    MechanismName.adaptive: AdaptiveNeighbourhood,
}


def mechanism_of(name: MechanismName, space: TokenSpace, epsilon: float) -> Mechanism:
    """The mechanism of a name, with a budget for each token."""
    return MECHANISMS[name](space, epsilon)


@dataclass(frozen=True)
class Unchanged:
    """Tokens that were replaced by themselves. These counts depend on the private rows, and are not for the server."""

    tokens: int
    rare_rows: int  # a token is rare if fewer rows have it
    rare_tokens: int  # rare tokens in the rows, each as often as it stands there
    rare_unchanged: int


@dataclass(frozen=True)
class PrivateRows:
    """Rows that may be sent, and the counts of what they cost."""

    rows: list[RowValues]
    tokens: list[int]  # of each row
    decisions: int  # answers of randomised response in a row
    unchanged: Unchanged


def make_private(
    rows: Sequence[Row],
    columns: PrivateColumns,
    model: ModelTokens,
    mechanism: Mechanism,
    label_epsilon: float | None,
    uniform: Uniform,
    rare_rows: int,
) -> PrivateRows:
    """The rows with the columns of the task alone, each token and each label replaced.

    `label_epsilon` is needed where labels are written. Raises InvalidData for a row that lacks a column.
    """
    texts = [columns.texts_of(row) for row in rows]
    tokens = [[model.tokens_of(text) for column in row.values() for text in column] for row in texts]
    flat_N = np.array([token for row in tokens for text in row for token in text], dtype=np.int64)
    replaced_N = mechanism.replace(flat_N, uniform)
    left = iter(replaced_N.tolist())
    decisions = _responses(rows, columns, label_epsilon, uniform)
    written: list[RowValues] = []
    for own, own_tokens, labels in zip(texts, tokens, decisions, strict=True):
        new = iter([model.text_of([next(left) for _ in text]) for text in own_tokens])
        values: RowValues = {column: _shaped([next(new) for _ in old], old) for column, old in own.items()}
        written.append(values | dict(columns.label_value(labels)))
    return PrivateRows(
        rows=written,
        tokens=[sum(map(len, row)) for row in tokens],
        decisions=len(decisions[0]),
        unchanged=_unchanged(tokens, flat_N == replaced_N, rare_rows),
    )


def _shaped(new: list[str], old: list[str]) -> str | list[str]:
    """One text as a text, several as a list."""
    return new if len(old) > 1 else new[0]


def _responses(
    rows: Sequence[Row], columns: PrivateColumns, epsilon: float | None, uniform: Uniform
) -> list[list[int]]:
    """The decisions of each row after randomised response."""
    given = np.array([columns.decisions_of(row) for row in rows], dtype=np.int64)
    if not given.size:
        return [[] for _ in rows]
    assert epsilon is not None
    answers = respond(given.ravel(), columns.choices, epsilon, uniform).reshape(given.shape)
    return [row.tolist() for row in answers]


def _unchanged(tokens: Sequence[Sequence[Sequence[int]]], same_N: NDArray[np.bool_], rare_rows: int) -> Unchanged:
    """Counts over the tokens of the texts of each row; a token is rare if fewer than `rare_rows` rows have it."""
    flat = [list(chain.from_iterable(row)) for row in tokens]
    rows_with = Counter(token for row in flat for token in set(row))
    is_rare_N = np.array([rows_with[token] < rare_rows for row in flat for token in row], dtype=np.bool_)
    return Unchanged(int(same_N.sum()), rare_rows, int(is_rare_N.sum()), int((is_rare_N & same_N).sum()))
