"""What a task needs of its rows."""

from typing import Any

import pytest

from service.contract.errors import InvalidData, InvalidTemplate, UnknownLabel
from service.contract.presets import resolve
from service.contract.rows import Row, check_rows, have_answers
from service.contract.task import Task


def task_of(**fields: Any) -> Task:
    given = {"template": "Review: {text}", "labels": {"1": "good", "0": "bad"}, "calibration": {"uri": "file:///rows"}}
    return resolve(Task.model_validate(given | fields))


def row_of(**values: Any) -> Row:
    return Row({"text": "a fine film", "label": "1"} | values, line=7)


def test_complete_rows_pass() -> None:
    check_rows([row_of(), row_of(label=0, text=3)], task_of())


def test_a_label_that_the_task_does_not_name_is_refused_with_its_line() -> None:
    with pytest.raises(UnknownLabel, match=r"line 7 has the label 'neutral'.*: it names 1, 0"):
        check_rows([row_of(), row_of(label="neutral")], task_of())


def test_a_column_that_no_row_has_is_a_fault_of_the_template() -> None:
    with pytest.raises(InvalidTemplate, match=r"the column 'title', which no row has; the first row has label, text"):
        check_rows([row_of(), row_of()], task_of(template="{title} {text}"))


def test_a_column_that_one_row_lacks_is_a_fault_of_the_row() -> None:
    with pytest.raises(InvalidData, match="line 7 has no value in the column 'title'"):
        check_rows([row_of(title="good"), row_of(title=None)], task_of(template="{title} {text}"))


def test_a_row_without_its_answer_is_refused() -> None:
    with pytest.raises(InvalidData, match="line 7 has no value in the column 'label'"):
        check_rows([row_of(label=None)], task_of())
    with pytest.raises(InvalidData, match="no value in the column 'target'"):
        check_rows([row_of()], task_of(kind="generation", labels=None))


def test_answers_are_not_checked_where_none_are_needed() -> None:
    rows = [row_of(label="neutral"), row_of(label=None)]
    check_rows(rows, task_of(), answered=False)
    assert have_answers(rows, task_of())
    assert not have_answers(rows[1:], task_of())


def test_messages_name_the_row_where_there_are_no_lines() -> None:
    with pytest.raises(InvalidData, match="row 2 has no value"):
        Row({}, 2, "row").text("text")
