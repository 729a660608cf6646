"""Splits rows by label."""

from collections.abc import Sequence

from sklearn.model_selection import train_test_split

from service.contract.rows import Row
from service.storage.draws import num_set_aside


def set_aside(rows: Sequence[Row], label_column: str | None, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows that stay, a fifth that is set aside), drawn by seed; stratified by label where a label column is given.

    Raises InvalidData where a label would have no row on one of the two sides.
    """
    size = num_set_aside(rows, label_column)
    labels = [row.text(label_column) for row in rows] if label_column else None
    stay, aside = train_test_split(range(len(rows)), test_size=size, random_state=seed, stratify=labels)
    return [rows[index] for index in sorted(stay)], [rows[index] for index in sorted(aside)]
