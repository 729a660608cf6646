"""Draws rows by seed, and says how many are set aside for the evaluation. The plan and the worker draw alike."""

import random
from collections import Counter
from collections.abc import Sequence

from service.contract.errors import InvalidData
from service.contract.fields import EVALUATION_SHARE
from service.contract.options import Draw
from service.contract.request.presets import LABEL_COLUMN
from service.contract.request.task import DataSource
from service.rows.row import Row


def drawn(rows: Sequence[Row], source: DataSource) -> list[Row]:
    """The rows of a source that a job uses. Raises InvalidData for a balanced draw with a row without a label."""
    if source.draw is Draw.balanced:
        return draw_balanced(rows, source.limit, source.seed, LABEL_COLUMN)
    return draw(rows, source.limit, source.seed)


def draw(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """`limit` rows without repetition, in their order in the file; all rows where there are no more than `limit`."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chosen = random.Random(seed).sample(range(len(rows)), limit)
    return [rows[index] for index in sorted(chosen)]


def draw_balanced(rows: Sequence[Row], limit: int | None, seed: int, label_column: str) -> list[Row]:
    """At most `limit` rows in their order in the file; the counts of any two labels differ by at most one.

    No label has more rows than the rarest one, so that fewer than `limit` rows may come back. Raises InvalidData for a
    row without a label.
    """
    by_label: dict[str, list[Row]] = {}
    for row in random.Random(seed).sample(list(rows), len(rows)):
        by_label.setdefault(row.text(label_column), []).append(row)
    rounds = [row for one_of_each in zip(*by_label.values(), strict=False) for row in one_of_each]
    return sorted(rounds[:limit], key=lambda row: row.line)


def num_set_aside(rows: Sequence[Row], label_column: str | None) -> int:
    """How many rows are set aside: a fifth, and at least one of each label where a label column is given.

    Raises InvalidData where a label would have no row on one of the two sides.
    """
    counts = Counter(row.text(label_column) if label_column else "" for row in rows)
    if min(counts.values()) < 2:
        raise InvalidData(
            "there are too few rows to set a fifth aside for the evaluation: "
            "give at least two rows of every label, or name evaluation rows in `evaluation`",
            param="task.evaluation",
        )
    return max(-(-len(rows) // EVALUATION_SHARE), len(counts))
