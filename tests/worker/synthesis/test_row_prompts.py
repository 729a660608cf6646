"""The prompts that ask for rows, and what is read of the texts that are written."""

from typing import Any

import pytest

from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.rows.row import Row
from worker.synthesis import row_prompts

LABELS = {"0": "no", "1": "yes"}
ROWS = {"calibration": {"uri": "file:///rows.jsonl"}}
PAIRS: dict[str, Any] = {"template": "{b}\n{a}\nSame?", "labels": LABELS, **ROWS}
WRITING: dict[str, Any] = {"template": "Say {text}", "kind": "generation", **ROWS}
ROW = Row({"a": "one\ntwo", "b": "three", "label": "1"}, 1)


def task(**fields: Any) -> Task:
    return resolve(Task.model_validate(fields))


def test_shown_rows_have_the_columns_of_the_template_in_its_order() -> None:
    asked = row_prompts.question(task(**PAIRS), [ROW, ROW], "...\n...\nSame?", chats=False)
    assert asked == (
        'These are rows for which the answer to "... ... Same?" is "yes".\n\n'
        "b: three\na: one two\n\nb: three\na: one two"
    )
    assert row_prompts.opening(task(**PAIRS)) == "b:"
    in_chat = row_prompts.question(task(**PAIRS), [ROW], "", chats=True)
    assert in_chat.endswith("Write another one in the same form.")


def test_shown_texts_are_cut_as_the_task_cuts_them() -> None:
    assert row_prompts.texts(ROW, task(**PAIRS, max_words=1)) == {"b": "three", "a": "one"}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (" first\na: second\n\nb: next", {"b": "first", "a": "second", "label": "1"}),
        ("first\na: x: y\nmore", {"b": "first", "a": "x: y", "label": "1"}),
        ("b: first\na: second", {"b": "first", "a": "second", "label": "1"}),
        ("first", None),
        ("first\na:", None),
        ("\na: second", None),
        ("first\nc: second", None),
        ("", None),
    ],
)
def test_columns_are_read_from_the_lines_of_the_first_paragraph(written: str, found: dict[str, str] | None) -> None:
    assert row_prompts.read(written, task(**PAIRS), ROW) == found


def test_generated_tasks_are_written_with_their_target() -> None:
    like = Row({"text": "a", "target": ["b", "c"]}, 1)
    assert row_prompts.texts(like, task(**WRITING)) == {"text": "a", "target": "b"}
    assert row_prompts.read(" x\ntarget: y", task(**WRITING), like) == {"text": "x", "target": "y"}


@pytest.mark.parametrize(("text", "says_nothing"), [("Yes - yes, no", True), ("...", True), ("yes it is", False)])
def test_rows_of_nothing_but_answer_words_say_nothing(text: str, says_nothing: bool) -> None:
    assert row_prompts.says_nothing(Row({"a": text, "b": "no"}, 1), task(**PAIRS)) == says_nothing
