"""Further rows of a task, written from the given ones: each is like one of them, and of the same label."""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from service.contract.options import DropReason, TaskKind
from service.contract.request.presets import LABEL_COLUMN
from service.contract.request.task import Synthesis, TaskWording
from service.rows.row import Row
from worker.data.tokenising import token_ids
from worker.data.wordings import Tokens
from worker.evaluation.generation import Sampling
from worker.synthesis import row_prompts
from worker.synthesis.drafts import Draft
from worker.synthesis.writer import Writer

TEMPERATURE, TOP_P = 1.0, 0.9
MAX_TOKENS = 256  # of a written row; no more than the longest given row has


@dataclass(frozen=True)
class _Order:
    """A row that is to be written: the given row that it is like, and the prompt; None where none is short enough."""

    like: Row
    prompt: Tokens | None


def write(
    writer: Writer,
    task: TaskWording,
    asked: str,
    given: Sequence[Row],
    synthesis: Synthesis,
    on_texts: Callable[[int], None],
) -> list[Draft]:
    """The written rows, those that cannot be read and duplicates dropped. `asked` is a sample prompt of the task."""
    tokens = _most_tokens(writer, task, given)
    orders = _orders(writer, task, asked, given, synthesis, tokens)
    prompts = [order.prompt for order in orders if order.prompt is not None]
    written = iter(writer.write(prompts, tokens, on_texts, Sampling(TEMPERATURE, TOP_P, synthesis.seed)))
    known = {_identity(row, task) for row in given}
    drafts: list[Draft] = []
    for number, order in enumerate(orders, start=1):
        draft = Draft("", dropped=DropReason.too_long)
        if order.prompt is not None:
            draft = _draft(next(written), task, order.like, number, known)
        if draft.row is not None:
            known.add(_identity(draft.row, task))
        drafts.append(draft)
    return drafts


def _draft(text: str, task: TaskWording, like: Row, number: int, known: set[Hashable]) -> Draft:
    values = row_prompts.read(text, task, like)
    if values is None:
        return Draft(text, dropped=DropReason.malformed)
    row = Row(values, number, counted_in="written row")
    if row_prompts.says_nothing(row, task):
        return Draft(text, row, DropReason.only_answer)
    return Draft(text, row, DropReason.duplicate if _identity(row, task) in known else None)


def _identity(row: Row, task: TaskWording) -> Hashable:
    """What two rows have in common of which one is a duplicate: their texts but for case and white space."""
    return tuple(text.casefold() for text in row_prompts.texts(row, task).values())


def _orders(
    writer: Writer, task: TaskWording, asked: str, given: Sequence[Row], synthesis: Synthesis, tokens: int
) -> list[_Order]:
    draw = random.Random(synthesis.seed)
    shuffled = draw.sample(given, len(given))
    orders = []
    for number in range(synthesis.rows):
        like = shuffled[number % len(shuffled)]
        others = [row for row in given if row is not like and _label(row, task) == _label(like, task)]
        shown = [*draw.sample(others, min(synthesis.examples - 1, len(others))), like]
        orders.append(_Order(like, _prompt(writer, task, asked, shown, tokens)))
    return orders


def _label(row: Row, task: TaskWording) -> str | None:
    return None if task.kind is TaskKind.generation else row.text(LABEL_COLUMN)


def _prompt(writer: Writer, task: TaskWording, asked: str, shown: Sequence[Row], tokens: int) -> Tokens | None:
    """The prompt with the last of the shown rows and as many of the others as the writer takes."""
    most = writer.most_prompt_tokens(tokens)
    for first in range(len(shown)):
        question = row_prompts.question(task, shown[first:], asked, chats=writer.chats)
        prompt = writer.prompt(question, row_prompts.opening(task))
        if most is None or len(prompt) <= most:
            return prompt
    return None


def _most_tokens(writer: Writer, task: TaskWording, given: Sequence[Row]) -> int:
    """Tokens that a written row may have: as many as the longest given row has."""
    lengths = [len(token_ids(row_prompts.as_lines(row, task), writer.wording)) for row in given]
    room = MAX_TOKENS if writer.wording.max_tokens is None else min(MAX_TOKENS, writer.wording.max_tokens // 2)
    return min(room, max(lengths))
