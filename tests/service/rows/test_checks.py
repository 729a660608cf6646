"""What a task needs of its rows."""

from typing import Any

import pytest

from service.contract.errors import InvalidData, InvalidTemplate, UnknownLabel
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.contract.row_values import usable_values
from service.rows.checks import check_rows, have_answers
from service.rows.labels import with_named_labels
from service.rows.row import Row


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


GENERATION = {"kind": "generation", "labels": None}


@pytest.mark.parametrize("target", ["good", 3, True, ["good"], ["good", "a fine film"], ["good", "good"]])
def test_a_target_is_a_text_or_a_list_of_texts(target: Any) -> None:
    row = row_of(target=target)
    check_rows([row, row_of(target="good")], task_of(**GENERATION))
    assert row.targets() == (target if isinstance(target, list) else [row.text("target")])


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([], "line 7: the column 'target' must have a text, or a list of one or more texts"),
        (["good", ""], "line 7 has an empty text in the column 'target'"),
        ([" \n"], "line 7 has an empty text"),
        ("", "line 7 has an empty text"),
    ],
)
def test_a_target_without_text_is_refused_with_its_line(target: Any, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        check_rows([row_of(target="good"), row_of(target=target)], task_of(**GENERATION))
    check_rows([row_of(target=target)], task_of(**GENERATION), answered=False)
    check_rows([row_of(target=target)], task_of())


def test_a_list_of_texts_is_a_target_alone() -> None:
    for column, task in (("label", task_of()), ("text", task_of(**GENERATION))):
        with pytest.raises(InvalidData, match=f"line 7: the column '{column}', which the task uses, must have"):
            check_rows([row_of(target="good"), row_of(**{"target": "good", column: ["positive"]})], task)


def test_answers_are_not_checked_where_none_are_needed() -> None:
    rows = [row_of(label="neutral"), row_of(label=None)]
    check_rows(rows, task_of(), answered=False)
    assert have_answers(rows, task_of())
    assert not have_answers(rows[1:], task_of())


def test_messages_name_the_row_where_there_are_no_lines() -> None:
    with pytest.raises(InvalidData, match="row 2 has no value"):
        Row({}, 2, "row").text("text")


# label in the row -> the label of the task that it names
TRUTH, NUMBERS = {"true": "yes", "false": "no"}, {"1": "yes", "0": "no"}


@pytest.mark.parametrize(
    ("values", "labels", "found"),
    [
        ({"label": True}, TRUTH, "true"),
        ({"label": "False"}, TRUTH, "false"),
        ({"label": True}, {"True": "yes", "False": "no"}, "True"),
        ({"label": 1.0}, NUMBERS, "1"),
        ({"label": 1}, {"1.0": "yes", "0.0": "no"}, "1.0"),
        ({"label": "1.0"}, NUMBERS, "1"),
        ({"label": 1, "label_name": "positive"}, NUMBERS, "1"),
        ({"label": 1, "label_name": "positive"}, {"positive": "yes", "negative": "no"}, "positive"),
        ({"label": 1.5}, NUMBERS, 1.5),
        ({"label": None}, NUMBERS, None),
    ],
)
def test_a_label_is_found_in_every_spelling(values: dict[str, Any], labels: dict[str, str], found: object) -> None:
    [row] = with_named_labels([row_of(**values)], task_of(labels=labels))
    assert row.values["label"] == found


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (-2.5, -2.5), ("0.75", 0.75), (" -1e-3 ", -0.001), ("+.5", 0.5), ("3.", 3.0), (0, 0.0)],
)
def test_a_number_is_read_from_numbers_and_their_texts(value: Any, number: float) -> None:
    row = row_of(label=value)
    check_rows([row], task_of(kind="regression", labels=None))
    assert row.number("label") == number


@pytest.mark.parametrize(
    "value", ["good", "", "nan", "inf", "1_000", "1,5", "٣", "1e999", "0x10", True, 10**400, [1.5], "x" * 99]
)
def test_what_is_no_finite_number_is_refused_with_its_row(value: Any) -> None:
    with pytest.raises(InvalidData, match="line 7: the column 'label' must have a finite number") as refused:
        check_rows([row_of(label=3), row_of(label=value)], task_of(kind="regression", labels=None))
    assert len(refused.value.message) < 120


def test_a_row_without_its_number_is_refused() -> None:
    regression = task_of(kind="regression", labels=None)
    with pytest.raises(InvalidData, match="line 7 has no value in the column 'label'"):
        check_rows([row_of(label=None)], regression)
    check_rows([row_of(label=None)], regression, answered=False)


LISTED = {"kind": "multi_label", "labels": {"joy": "a", "fear": "b", "1": "c"}}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["joy", "fear"], ["joy", "fear"]),
        ([], []),
        ("joy | fear", ["joy", "fear"]),
        ("joy", ["joy"]),
        ("", []),
        ([1.0, "joy"], ["1", "joy"]),
    ],
)
def test_several_labels_are_a_list_or_a_text(value: Any, found: list[str]) -> None:
    task = task_of(**LISTED)
    rows = with_named_labels([row_of(label=value), row_of(label=["joy"])], task)
    check_rows(rows, task)
    assert rows[0].labels("label") == found


def test_class_names_of_several_labels_are_found() -> None:
    [row] = with_named_labels([row_of(label=[0, 1], label_name=["joy", "fear"])], task_of(**LISTED))
    assert row.labels("label") == ["joy", "fear"]


@pytest.mark.parametrize("value", [3, True, 1.5, [["joy"]], [None], {"joy": 1}])
def test_what_is_no_list_of_labels_is_refused_with_its_row(value: Any) -> None:
    values = usable_values({"text": "a", "label": value})
    for row in (Row(values, 7), Row(usable_values(values), 7)):  # an upload is read twice
        with pytest.raises(InvalidData, match="line 7: the column 'label' must have a list of labels"):
            check_rows([row_of(label=["joy"]), row], task_of(**LISTED))


def test_labels_that_the_task_lacks_are_refused_in_lists_as_well() -> None:
    with pytest.raises(UnknownLabel, match="line 7 has the label 'grief'"):
        check_rows([row_of(label=["joy", "grief"])], task_of(**LISTED))
    with pytest.raises(InvalidData, match="none of the rows has a label"):
        check_rows([row_of(label=[])], task_of(**LISTED))


def test_true_and_false_in_a_prompt_are_spelled_as_in_json() -> None:
    row = row_of(flag=True, off=False, number=2.0)
    assert [row.text(column) for column in ("flag", "off", "number")] == ["true", "false", "2.0"]


@pytest.mark.parametrize("value", [["positive", "negative"], {"name": "positive"}])
def test_values_that_are_no_text_are_refused_only_where_they_are_used(value: Any) -> None:
    rows = Task.model_validate(
        {
            "template": "{text}",
            "labels": NUMBERS,
            "calibration": {"rows": [{"text": "a", "label": value, "other": value}]},
        }
    ).calibration.rows
    assert rows is not None
    row = Row(rows[0], 1, "row")
    with pytest.raises(InvalidData, match="row 1: the column 'label', which the task uses, must have one label"):
        check_rows([row], task_of())
    check_rows([row], task_of(), answered=False)
