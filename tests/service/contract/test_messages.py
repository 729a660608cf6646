"""Conversations in a column of a row: what is read, and what is refused with the row and the message."""

import json
from typing import Any

import pytest

from service.contract.errors import InvalidData, InvalidRequest, InvalidTemplate, UnknownLabel
from service.contract.messages import Message, asked, is_answered
from service.contract.request.presets import OF_TEMPLATES, resolve
from service.contract.request.task import ObservedTask, Task
from service.contract.row_values import usable_values
from service.rows.checks import check_rows, have_answers, shown_texts
from service.rows.labels import with_named_labels
from service.rows.row import Row

USER, ANSWER = {"role": "user", "content": "good film"}, {"role": "assistant", "content": "positive"}
SYSTEM = {"role": "system", "content": "be quick"}
LABELS = {"1": "positive", "0": "negative"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:..."}}


def task_of(**fields: Any) -> Task:
    given = {"kind": "generation", "messages": "chat", "calibration": {"uri": "file:///rows"}} | fields
    return resolve(Task.model_validate(given))


def classification(**fields: Any) -> Task:
    return task_of(**{"kind": "classification", "labels": LABELS} | fields)


def row_of(*messages: Any, line: int = 7, **more: Any) -> Row:
    return Row(usable_values({"chat": list(messages)} | more), line)


def test_roles_and_contents_are_read() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "good "}, {"type": "text", "text": "film"}]}
    row = row_of(SYSTEM, parts | {"id": 3, "tool_calls": None}, ANSWER | {"weight": 0})
    assert row.conversation("chat") == [
        Message("system", "be quick"),
        Message("user", "good film"),
        Message("assistant", "positive", counts=False),
    ]


# messages -> a part of the reason
REFUSED: dict[str, tuple[list[Any], str]] = {
    "no message": ([], "a list of messages is needed"),
    "texts": (["good film", "positive"], "a list of messages is needed"),
    "other names of the fields": ([{"from": "human", "value": "a"}], "a list of messages is needed"),
    "a text among the messages": ([USER, "positive"], "a list of messages is needed"),
    "no role": ([USER, ANSWER | {"role": None}], "message 2 has the role None"),
    "an unknown role": ([USER, ANSWER, {"role": "tool", "content": "a"}], "message 3 has the role 'tool': give one of"),
    "no content": ([USER, {"role": "assistant"}], "message 2 has no content"),
    "an empty content": ([USER | {"content": " \n"}, ANSWER], "message 1 has no content"),
    "a number": ([USER | {"content": 3}, ANSWER], "message 1 has a content that is neither text nor"),
    "an image": ([USER | {"content": [{"type": "text", "text": "a"}, IMAGE]}, ANSWER], "of the type 'image_url'"),
    "parts without text": ([USER | {"content": [{"type": "text"}]}, ANSWER], "message 1 has a part of the type 'text'"),
    "texts as parts": ([USER | {"content": ["a"]}, ANSWER], "message 1 has a part"),
    "a call of a tool": ([USER, ANSWER | {"tool_calls": [{"id": "1"}]}], "message 2 has the field 'tool_calls'"),
    "a thought": ([USER, ANSWER | {"reasoning_content": "hm"}], "message 2 has the field 'reasoning_content'"),
    "another weight": ([USER, ANSWER | {"weight": 0.5}], "message 2 has another `weight`"),
    "nothing before the answer": ([ANSWER, USER, ANSWER], "message 1 is the assistant's, and nothing before it"),
    "no answer": ([SYSTEM, USER], "no message of the assistant is an answer to learn from"),
    "no answer with a weight": ([USER, ANSWER | {"weight": 0}], "no message of the assistant is an answer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_conversations_that_cannot_be_read_are_refused_with_row_and_reason(name: str) -> None:
    messages, says = REFUSED[name]
    with pytest.raises(InvalidData, match=r"^line 7, column 'chat': ") as refused:
        with_named_labels([row_of(USER, ANSWER, line=6), row_of(*messages)], task_of())
    assert says in refused.value.message


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_kept_of_a_row_says_the_same_when_it_is_read_again(name: str) -> None:
    kept = row_of(*REFUSED[name][0]).values
    assert usable_values(kept) == kept
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept


def test_large_values_are_not_kept() -> None:
    image = {"type": "image_url", "image_url": {"url": "x" * 10_000}}
    row = row_of(USER | {"content": [image], "more": "y" * 10_000}, ANSWER | {"tool_calls": ["z" * 10_000]})
    assert len(json.dumps(row.values)) < 300


def test_columns_that_no_task_uses_are_ignored() -> None:
    rows = [row_of(*messages, text="a", label="1") for messages, _ in REFUSED.values()]
    check_rows(
        rows, resolve(Task.model_validate({"template": "{text}", "labels": LABELS} | {"calibration": {"uri": "x"}}))
    )


def test_the_label_of_a_conversation_is_that_of_its_last_answer() -> None:
    rows = [row_of(USER, ANSWER, label="0"), row_of(USER, ANSWER, USER, ANSWER | {"content": " negative\n"}, USER)]
    assert [row.values["label"] for row in with_named_labels(rows, classification())] == ["1", "0"]


@pytest.mark.parametrize("content", ["neutral", "1", "Positive", "positive film"])
def test_an_answer_that_is_no_label_word_is_refused(content: str) -> None:
    rows = [row_of(USER, ANSWER), row_of(USER, ANSWER | {"content": content})]
    with pytest.raises(UnknownLabel, match=rf"'chat': the last answer '{content}' is none of .*: positive, negative"):
        with_named_labels(rows, classification())


def test_answers_are_not_checked_where_none_are_needed() -> None:
    rows = [row_of(USER), row_of(USER, ANSWER, USER), row_of(USER, ANSWER | {"content": "neutral"})]
    task = classification(supervision="none")
    found = with_named_labels(rows, task)
    assert [row.values["label"] for row in found] == [None, "1", None]
    assert have_answers(found, task)
    assert not have_answers(found[:2], task)
    check_rows(found, task, answered=False)
    with pytest.raises(InvalidData, match="no message of the assistant"):
        check_rows(found, task)
    with pytest.raises(InvalidData, match="message 1 has no content"):
        with_named_labels([row_of(USER | {"content": ""})], task)
    observed = resolve(ObservedTask.model_validate({"messages": "chat", "labels": LABELS, "evaluation": {"uri": "x"}}))
    with pytest.raises(InvalidData, match="no message of the assistant"):
        with_named_labels(rows, observed)


def test_a_column_that_no_row_has_is_a_fault_of_the_task() -> None:
    with pytest.raises(
        InvalidRequest, match=r"`messages` names the column 'chat', which no row has; .* has text"
    ) as bad:
        with_named_labels([Row({"text": "a"}, 1)], task_of())
    assert bad.value.param == "task.messages"
    with pytest.raises(InvalidData, match="line 1 has no value in the column 'chat'"):
        with_named_labels([Row({"text": "a"}, 1), row_of(USER, ANSWER)], task_of())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"template": "{text}"}, "task.template"),
        ({"preset": "sst2"}, "task.preset"),
        *(({name: value}, f"task.{name}") for name, value in zip(OF_TEMPLATES, (3, False, " "), strict=True)),
        ({"messages": "target"}, "task.messages"),
        ({"messages": "label"}, "task.messages"),
    ],
)
def test_fields_of_a_template_beside_messages_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        task_of(**fields)
    assert refused.value.param == param
    assert isinstance(refused.value, InvalidTemplate) == (param in ("task.template", "task.preset"))


def test_a_report_shows_what_an_answer_is_to() -> None:
    row = row_of(SYSTEM, USER, ANSWER, USER | {"content": "and now?"})
    assert shown_texts(row, task_of(), answered=True) == {"user": "good film"}
    assert shown_texts(row, task_of(), answered=False) == {"user": "and now?"}


def test_what_asks_is_all_before_the_last_answer() -> None:
    messages = row_of(SYSTEM, USER, ANSWER, USER, ANSWER).conversation("chat")
    assert asked(messages, answered=True) == asked(messages, answered=False) == messages[:-1]
    assert asked(messages[:-1], answered=True) == messages[:2]
    assert asked(messages[:-1], answered=False) == messages[:-1]
    assert [is_answered(messages[:count]) for count in (2, 3, 4, 5)] == [False, True, False, True]


@pytest.mark.parametrize("kind", ["regression", "multi_label"])
def test_numbers_and_several_labels_have_no_conversations(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"to a {kind} task: give `task.template`") as refused:
        task_of(kind=kind)
    assert refused.value.param == "task.messages"
