"""Splits and orders rows by label."""

import random
from collections.abc import Sequence

from service.rows.row import Row
from service.storage.draws import num_set_aside


def set_aside(rows: Sequence[Row], label_column: str | None, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows that stay, a fifth that is set aside), drawn by seed; stratified by label where a label column is given.

    Raises InvalidData where a label would have no row on one of the two sides.
    """
    from sklearn.model_selection import train_test_split  # slow to import, and not needed beside evaluation rows

    size = num_set_aside(rows, label_column)
    labels = [row.text(label_column) for row in rows] if label_column else None
    stay, aside = train_test_split(range(len(rows)), test_size=size, random_state=seed, stratify=labels)
    return [rows[index] for index in sorted(stay)], [rows[index] for index in sorted(aside)]


def stratified_order(answers: Sequence[object], seed: int) -> list[int]:
    """The rows shuffled so that every stretch of them has each answer in about its proportion among all rows."""
    generator, rows_by_answer = random.Random(seed), dict[object, list[int]]()
    for row, answer in enumerate(answers):
        rows_by_answer.setdefault(answer, []).append(row)
    places: list[tuple[float, int]] = []
    for rows in rows_by_answer.values():
        generator.shuffle(rows)
        places += [((rank + generator.random()) / len(rows), row) for rank, row in enumerate(rows)]
    return [row for _, row in sorted(places)]
