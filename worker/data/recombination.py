"""Further calibration rows from a few: their texts are put together from the texts of two rows each.

A few rows show the units of a model in a few contexts only, and a fit of its weights has more unknowns than tokens. A
recombined row has, in each column, the first words of one row and the last words of another, cut at the same share of
both. Its label has to come from the dense model. No row of another source is needed.
"""

from collections.abc import Sequence
from random import Random

from service.contract.rows import Row

COUNTED_IN = "recombined row"  # in messages about such a row


def recombined(rows: Sequence[Row], columns: Sequence[str], count: int, seed: int = 0) -> list[Row]:
    """`count` rows with text in the given columns and in no others. Every row must have a value there."""
    random = Random(seed)
    return [
        Row({column: _joined(rows, column, random) for column in columns}, line, COUNTED_IN)
        for line in range(1, count + 1)
    ]


def _joined(rows: Sequence[Row], column: str, random: Random) -> str:
    """The first words of one row and the last words of another; the whole text of the first where no word is left."""
    first, last = (random.choice(rows).text(column).split() for _ in range(2))
    share = random.random()
    return " ".join(first[: round(share * len(first))] + last[round(share * len(last)) :]) or " ".join(first)
