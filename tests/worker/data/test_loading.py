"""The rows that a request names, drawn, checked and split."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.errors import ForbiddenPath, InvalidData
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from worker.data.loading import Location, load_rows


def lines(count: int) -> bytes:
    rows = ({"text": f"film {number}", "label": "10"[number % 2]} for number in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def task_of(calibration: dict[str, object], **fields: object) -> Task:
    labels = {"1": "positive", "0": "negative"}
    raw = {"template": "{text}", "labels": labels, "calibration": calibration} | fields
    return resolve(Task.model_validate(raw))


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location(Storage((tmp_path / "store").as_uri()), "default", tmp_path / "scratch")


def test_a_data_set_of_the_tenant_is_read_from_storage(location: Location) -> None:
    location.storage.put_bytes(lines(30), dataset_key("default", "abc"))
    calibration, evaluation = load_rows(task_of({"uri": "dataset://abc"}), location)
    assert (len(calibration), len(evaluation)) == (24, 6)
    with pytest.raises(InvalidData, match="dataset://abc does not exist"):
        load_rows(task_of({"uri": "dataset://abc"}), replace(location, tenant="other"))


def test_limit_and_seed_draw_from_a_file(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(30))
    uri = (tmp_path / "rows.jsonl").as_uri()
    drawn = [
        load_rows(task_of({"uri": uri, "limit": 10, "seed": seed}, evaluation={"uri": uri}), location)
        for seed in (1, 1, 2)
    ]
    assert [len(calibration) for calibration, _ in drawn] == [10, 10, 10]
    assert [len(evaluation) for _, evaluation in drawn] == [30, 30, 30]
    assert drawn[0] == drawn[1] != drawn[2]


def test_errors_name_the_file_and_the_field(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(3) + b"{")
    uri = (tmp_path / "rows.jsonl").as_uri()
    with pytest.raises(InvalidData, match=f"{uri}: line 4 is not JSON") as caught:
        load_rows(task_of({"uri": uri}), location)
    assert caught.value.param == "task.calibration.uri"
    with pytest.raises(InvalidData, match="does not exist"):
        load_rows(task_of({"uri": f"{uri}.gone.jsonl"}), location)


def test_errors_of_rows_that_are_set_aside_name_the_file_and_the_field(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(30) + b'{"text": "without a label"}\n')
    uri = (tmp_path / "rows.jsonl").as_uri()
    with pytest.raises(InvalidData) as caught:
        load_rows(task_of({"uri": uri}, supervision="none"), location)
    assert caught.value.message == f"{uri}: line 31 has no value in the column 'label'"
    assert caught.value.param == "task.calibration.uri"


def test_too_few_rows_to_set_some_aside_name_the_file(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(3))
    uri = (tmp_path / "rows.jsonl").as_uri()
    with pytest.raises(InvalidData, match=f"{uri}: there are too few rows") as caught:
        load_rows(task_of({"uri": uri}), location)
    assert caught.value.param == "task.evaluation"


def test_a_file_outside_the_allowed_roots_is_refused(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(3))
    with pytest.raises(ForbiddenPath):
        load_rows(
            task_of({"uri": (tmp_path / "rows.jsonl").as_uri()}), replace(location, roots=[tmp_path / "elsewhere"])
        )


def chats(count: int) -> list[dict[str, object]]:
    words = ("positive", "negative")
    turns = ((("user", f"film {number}"), ("assistant", words[number % 3 == 0])) for number in range(count))
    return [{"chat": [{"role": role, "content": content} for role, content in each]} for each in turns]


def test_conversations_are_drawn_and_split_by_their_last_answers(location: Location, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(30)))
    uri, chat = (tmp_path / "rows.jsonl").as_uri(), {"template": None, "messages": "chat"}
    calibration, evaluation = load_rows(task_of({"uri": uri}, **chat), location)
    assert Counter(row.values["label"] for row in calibration) == {"1": 16, "0": 8}
    assert Counter(row.values["label"] for row in evaluation) == {"1": 4, "0": 2}
    balanced, _ = load_rows(task_of({"uri": uri, "draw": "balanced"}, evaluation={"uri": uri}, **chat), location)
    assert Counter(row.values["label"] for row in balanced) == {"1": 10, "0": 10}


def test_every_conversation_of_a_file_is_checked(location: Location, tmp_path: Path) -> None:
    rows = [*chats(30), {"chat": [{"role": "user", "content": "film"}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    uri = (tmp_path / "rows.jsonl").as_uri()
    for limit in (1, 2, 3):
        with pytest.raises(InvalidData, match="line 31, column 'chat': no message of the assistant"):
            load_rows(task_of({"uri": uri, "limit": limit}, template=None, messages="chat"), location)
