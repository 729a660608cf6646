"""The second texts of the rows of an embedding task, which its metrics compare with the first ones.

The second text of a row is the template filled from the columns of the same names with `_b` behind them: `text_b` for
`{text}`. A row has no second text where the template itself names such a column.
"""

from collections.abc import Mapping, Sequence

from service.contract.errors import InvalidData
from service.contract.options import TaskMetric
from service.contract.request.presets import LABEL_COLUMN, template_fields
from service.contract.request.task import TaskWording
from service.rows.row import Row

SECOND = "{}_b"
OF_NUMBERS = (TaskMetric.spearman, TaskMetric.pearson)  # metrics that compare similarities with numbers of the rows
NEAREST = 10  # second texts among which that of the row is looked for
MIN_NEIGHBOURS = 50  # different second texts; among fewer, the nearest ten say little, also of half of the rows


def second_columns(task: TaskWording) -> Mapping[str, str]:
    """Column of the first text -> column of the second one; empty where the template names both."""
    columns = template_fields(task.template or "")
    found = {column: SECOND.format(column) for column in sorted(columns)}
    return {} if columns & set(found.values()) else found


def have_second_texts(rows: Sequence[Row], task: TaskWording) -> bool:
    """Whether the rows have second texts: all of checked ones have, or none."""
    columns = second_columns(task).values()
    return any(row.values.get(column) is not None for row in rows for column in columns)


def check_texts(rows: Sequence[Row], task: TaskWording, *, answered: bool) -> None:
    """Check the second texts of rows whose first ones were checked, and with `answered` what the metric needs.

    Raises InvalidData where some rows have a second text and others not, or where the metric needs second texts,
    numbers or more different second texts than there are.
    """
    columns = second_columns(task).values()
    if have_second_texts(rows, task):
        for row in rows:
            for column in columns:
                row.text(column)
    elif answered:
        missing = f"no row has the column {', '.join(map(repr, columns))}" if columns else "the template names both"
        raise InvalidData(
            f"the metric {task.metric} compares the text of a row with a second one, and {missing}: give rows with "
            f"both and a template of the first, or `task.metric: {TaskMetric.cosine_similarity}`"
        )
    if answered and task.metric in OF_NUMBERS:
        for row in rows:
            row.number(LABEL_COLUMN)
    if answered and task.metric is TaskMetric.recall_at_10:
        _check_neighbours(rows, list(columns))


def _check_neighbours(rows: Sequence[Row], columns: Sequence[str]) -> None:
    found = len({tuple(row.text(column) for column in columns) for row in rows})
    if found < MIN_NEIGHBOURS:
        raise InvalidData(
            f"the rows have {found} different second texts, of which the nearest {NEAREST} say little: give rows with "
            f"at least {MIN_NEIGHBOURS}, or another metric"
        )
