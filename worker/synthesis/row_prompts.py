"""The prompts that ask for a further row of a task, and how the written text becomes one. Pure functions.

The writer is shown rows of the task, of one label where the task has labels. Each column has a line of its own, and an
empty line ends a row:

    These are rows for which the answer to "Review: ... Is it positive or negative?" is "negative".

    text: the plot goes nowhere

    text: a dull film

    text:
"""

import re
from collections.abc import Sequence
from string import Formatter

from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN, TARGET_COLUMN
from service.contract.request.task import TaskWording
from service.contract.row_values import RowValues
from service.rows.row import Row
from service.rows.words import first_words

WORDS = re.compile(r"\w+")
ANOTHER = "Write another one in the same form."


def columns(task: TaskWording) -> list[str]:
    """The columns that are written, in the order of the template; of a generation task its target as well."""
    named = (name for _, name, _, _ in Formatter().parse(task.template or "") if name)
    written = list(dict.fromkeys(named))
    return [*written, TARGET_COLUMN] if task.kind is TaskKind.generation else written


def opening(task: TaskWording) -> str:
    """How a written row begins."""
    return f"{columns(task)[0]}:"


def question(task: TaskWording, shown: Sequence[Row], asked: str, *, chats: bool) -> str:
    """What the writer is asked. `asked` is a prompt of the task with dots in place of texts."""
    rows = "\n\n".join(as_lines(row, task) for row in shown)
    start = f"These are rows for the prompt {_quoted(asked)}."
    if task.kind is not TaskKind.generation:
        word = (task.labels or {})[shown[0].text(LABEL_COLUMN)]
        start = f"These are rows for which the answer to {_quoted(asked)} is {_quoted(word)}."
    return f"{start}\n\n{rows}" + (f"\n\n{ANOTHER}" if chats else "")


def _quoted(text: str) -> str:
    return f'"{" ".join(text.split())}"'


def as_lines(row: Row, task: TaskWording) -> str:
    """The row as the writer is shown it."""
    return "\n".join(f"{column}: {value}" for column, value in texts(row, task).items())


def texts(row: Row, task: TaskWording) -> dict[str, str]:
    """Column -> its text on one line, cut to the words that the task reads."""
    found = {}
    for column in columns(task):
        is_target = column == TARGET_COLUMN and task.kind is TaskKind.generation
        text = row.targets()[0] if is_target else first_words(row.text(column), task.max_words)
        found[column] = " ".join(text.split())
    return found


def says_nothing(row: Row, task: TaskWording) -> bool:
    """Whether the texts of a written row have no words but those of the answers, as weak models write them."""
    answers = set(WORDS.findall(" ".join((task.labels or {}).values()).casefold()))
    return set(WORDS.findall(" ".join(texts(row, task).values()).casefold())) <= answers


def read(text: str, task: TaskWording, like: Row) -> RowValues | None:
    """The columns of a row from what was written after its opening, with the label of the row that it is like; None
    where a column is missing or empty."""
    written = text.strip().removeprefix(opening(task)).strip()  # some models repeat the opening
    paragraph = f"{opening(task)} {written}".split("\n\n", 1)[0]
    lines = paragraph.splitlines()
    found: dict[str, str] = {}
    for column, line in zip(columns(task), lines, strict=False):
        name, colon, value = line.partition(":")
        if not colon or name.strip() != column or not value.strip():
            return None
        found[column] = value.strip()
    if len(found) < len(columns(task)):
        return None
    label = {} if task.kind is TaskKind.generation else {LABEL_COLUMN: like.text(LABEL_COLUMN)}
    return {**found, **label}
