"""The wordings that options stand for, and the columns that their rows must have."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.cli.row_files import NamedRows, check_columns
from service.cli.short_request import Answer, wording_of
from service.contract.answers.resources import Dataset
from service.contract.errors import InvalidData
from service.contract.options import TaskKind
from service.contract.request.task import Task

NOW = datetime.now(UTC)
CASES: dict[str, tuple[str | None, Answer, str | None, dict[str, Any], list[str]]] = {
    "number": (
        "{text}",
        Answer(TaskKind.regression),
        None,
        {"kind": "regression", "template": "{text}"},
        ["label", "text"],
    ),
    "several labels": (
        "{text}",
        Answer(TaskKind.multi_label),
        None,
        {"kind": "multi_label", "template": "{text}"},
        ["label", "text"],
    ),
    "tags": (None, Answer(TaskKind.token_classification), None, {"kind": "token_classification"}, ["tags", "tokens"]),
    "conversations": (None, Answer(), "chat", {"kind": "generation", "messages": "chat"}, ["chat"]),
    "label of a conversation": (
        None,
        Answer(labels="0=no,1=yes"),
        "chat",
        {"messages": "chat", "labels": {"0": "no", "1": "yes"}},
        ["chat"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_options_name_every_kind_of_task_and_the_columns_of_its_rows(case: str) -> None:
    task, answer, messages, expected, columns = CASES[case]
    wording = wording_of(task, answer, messages=messages)
    assert wording.model_dump(mode="json", exclude_unset=True) == expected
    asked = Task.model_validate(wording.model_dump(exclude_unset=True) | {"calibration": {"uri": "dataset://x"}})
    check_columns(uploaded(columns), asked, "task.calibration")
    for missing in columns:
        with pytest.raises(InvalidData, match=f"lacks '{missing}'"):
            check_columns(uploaded([each for each in columns if each != missing]), asked, "task.calibration")


def uploaded(columns: list[str]) -> NamedRows:
    dataset = Dataset(
        id="x", uri="dataset://x", rows=1, size=1, sha256="", columns=columns, created_at=NOW, expires_at=NOW
    )
    return NamedRows("rows.jsonl", dataset.uri, dataset)
