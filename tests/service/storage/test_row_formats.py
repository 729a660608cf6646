"""Rows of JSON Lines, CSV and Parquet: an upload and the worker read the same rows and refuse the same files."""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import BodyTooLarge, InvalidData
from service.contract.request.presets import resolve
from service.contract.request.task import DataSource, Task
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from service.storage.row_formats import FORMAT_BY_ENDING, FORMAT_BY_MEDIA_TYPE, Content, convert, read_file
from tests.support.job_requests import request_body
from worker.data.loading import Location, read_source

ROWS = [{"text": "a fine film", "label": "positive"}, {"text": 'not, "really"\ngrün', "label": "negative"}]
CSV = 'text,label\na fine film,positive\n"not, ""really""\ngrün",negative\n'
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    """A Parquet file with these columns."""
    return table_bytes(pyarrow.table(columns))


def table_bytes(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def converted(directory: Path, body: bytes, ending: str, max_bytes: int = 10**6) -> tuple[Content, list[Any]]:
    """What `convert` says of a file, and the rows that it writes."""
    source, target = directory / "source", directory / "target"
    source.write_bytes(body)
    content = convert(source, FORMAT_BY_ENDING[ending], target, max_bytes=max_bytes)
    return content, [json.loads(line) for line in target.read_text().split("\n") if line]


GOOD = {
    ".jsonl": "".join(json.dumps(row) + "\r\n" for row in ROWS).encode(),
    ".csv": CSV.encode(),
    ".parquet": table_bytes(pyarrow.Table.from_pylist(ROWS)),
}


@pytest.mark.parametrize("ending", GOOD)
def test_all_formats_give_the_same_rows(ending: str, tmp_path: Path) -> None:
    content, rows = converted(tmp_path, GOOD[ending], ending)
    assert rows == ROWS
    assert (content.rows, content.columns) == (2, ["text", "label"])
    assert content.size == (tmp_path / "target").stat().st_size
    (tmp_path / f"rows{ending}").write_bytes(GOOD[ending])
    assert [row.values for row in read_file(tmp_path / f"rows{ending}")] == ROWS


@given(
    rows=st.lists(
        st.dictionaries(
            st.text(st.characters(codec="utf-8")), VALUES | st.text(st.characters(codec="utf-8")), min_size=1
        ),
        min_size=1,
    )
)
def test_rows_of_json_lines_stay_the_same_when_converted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    _, found = converted(tmp_path_factory.mktemp("rows"), body, ".jsonl")
    assert found == rows


@pytest.mark.parametrize("ending", GOOD)
def test_the_target_column_gets_its_name(ending: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(GOOD[ending])
    content = convert(
        tmp_path / "body", FORMAT_BY_ENDING[ending], tmp_path / "rows.jsonl", max_bytes=10**6, target_column="label"
    )
    assert content.columns == ["text", "target"]
    read = [row.values for row in read_file(tmp_path / "rows.jsonl")]
    assert read == [{"text": row["text"], "target": row["label"]} for row in ROWS]


@pytest.mark.parametrize(
    ("column", "rows", "says"),
    [
        ("title", [{"text": "a"}, {"label": "b"}], "no row has the column 'title': the rows have text, label"),
        ("target", [{"text": "a"}], "no row has the column 'target'"),
        ("text", [{"text": "a"}, {"text": "a", "target": "b"}], "line 2 has a column 'target' beside 'text'"),
    ],
)
def test_a_target_column_that_cannot_be_is_refused(
    tmp_path: Path, column: str, rows: list[dict[str, str]], says: str
) -> None:
    (tmp_path / "body").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InvalidData, match=says):
        convert(tmp_path / "body", FORMAT_BY_ENDING[".jsonl"], tmp_path / "x", max_bytes=1000, target_column=column)


def test_parquet_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    body = parquet({"text": ["a" * 1000] * 5000})
    assert len(body) < 100_000
    with pytest.raises(BodyTooLarge):
        converted(tmp_path, body, ".parquet")


def test_a_file_with_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"does not end in one of \.jsonl, \.csv, \.parquet"):
        read_file(tmp_path / "rows.txt")


# A file as the library `datasets` writes it, with the names of the classes in the metadata of the schema.
FEATURES = {"info": {"features": {"label": {"names": ["bad", "fine"], "_type": "ClassLabel"}}}}
NAMED = table_bytes(
    pyarrow.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
)

SEVERAL = {"label": {"feature": {"names": ["bad", "fine"], "_type": "ClassLabel"}, "_type": "List"}}
LISTED = table_bytes(
    pyarrow.table({"text": ["a", "b"], "label": [[1, 0], []]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": SEVERAL}})}
    )
)

# --- uploads and the worker ----------------------------------------------------------------------------------------

# name -> (ending, content, the rows or a part of the message)
FILES: dict[str, tuple[str, bytes, list[Any] | str]] = {
    "JSON Lines with blank lines": (".jsonl", b'\n{"text": "a"}\n\n \n{"text": "b"}', [{"text": "a"}, {"text": "b"}]),
    "JSON Lines with a byte order mark": (".jsonl", b'\xef\xbb\xbf{"text": "a"}\n', [{"text": "a"}]),
    "JSON Lines without rows": (".jsonl", b"\n\n", "holds no rows"),
    "an empty file": (".jsonl", b"", "holds no rows"),
    "a JSON array on a line": (".jsonl", b'{"text": "a"}\n[1]\n', "line 2 is not a JSON object"),
    "half an object": (".jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
    "NaN in JSON Lines": (".jsonl", b'{"text": "a", "number": NaN}', [{"text": "a", "number": None}]),
    "infinity in JSON Lines": (".jsonl", b'{"text": "a", "number": 1e999}', [{"text": "a", "number": []}]),
    "a list in JSON Lines": (".jsonl", b'{"text": "a", "other": [1]}', [{"text": "a", "other": []}]),
    "an object in JSON Lines": (".jsonl", b'{"text": "a", "b": {}}', [{"text": "a", "b": []}]),
    "JSON Lines in Latin-1": (".jsonl", '{"text": "grün"}'.encode("latin-1"), "line 1 is not JSON in UTF-8"),
    "half a surrogate pair": (".jsonl", b'{"text": "\\ud800"}', "line 1 holds"),
    "deeply nested JSON": (".jsonl", b'{"text": ' * 100_000, "line 1"),
    "a line of more than a mebibyte": (".jsonl", b'{"text": "' + b"x" * 2**20 + b'"}', "line 1 is longer"),
    "CSV with blank lines": (".csv", b"text\n\na\n\nb\n", [{"text": "a"}, {"text": "b"}]),
    "CSV with a byte order mark": (".csv", b"\xef\xbb\xbftext\na\n", [{"text": "a"}]),
    "CSV without rows": (".csv", b"text,label\n", "holds no rows"),
    "a short CSV row": (".csv", b"text,label\none,two\none\n", "line 3 has more or fewer columns"),
    "a long CSV row": (".csv", b"text,label\none,two,three\n", "line 2 has more or fewer columns"),
    "a CSV column twice": (".csv", b"text,text\none,two\n", "more than one column with the name 'text'"),
    "CSV in Latin-1": (".csv", "text\ngrün\n".encode("latin-1"), "is not CSV in UTF-8"),
    "an open quotation mark": (".csv", b'text\n"open', "is not CSV"),
    "a CSV field of 140000 characters": (".csv", b"text\n" + b"x" * 140_000 + b"\n", [{"text": "x" * 140_000}]),
    "a CSV field of a mebibyte": (".csv", b"text\n" + b"x" * 2**20 + b"\n", "line 2 takes more than 1048576 bytes"),
    "a CSV field of three mebibytes": (".csv", b"text\n" + b"x" * 3 * 2**20 + b"\n", "line 2 takes more than"),
    "a CSV row of more than a mebibyte": (
        ".csv",
        ",".join(f"c{n}" for n in range(11)).encode() + b"\n" + b",".join([b"x" * 100_000] * 11) + b"\n",
        "line 2 takes more than 1048576 bytes",
    ),
    "JSON Lines that take more than a mebibyte with spaces": (
        ".jsonl",
        json.dumps({f"c{n}": 1 for n in range(90_000)}, separators=(",", ":")).encode(),
        "line 1 takes more than 1048576 bytes",
    ),
    "no Parquet": (".parquet", b"PAR1 and then nothing PAR1", "not a complete Parquet file"),
    "half of Parquet": (".parquet", GOOD[".parquet"][:200], "not a complete Parquet file"),
    "a list in Parquet": (".parquet", parquet({"text": ["a"], "other": [[1]]}), [{"text": "a", "other": []}]),
    "a list of texts in JSON Lines": (".jsonl", b'{"text": "a", "b": ["c", ""]}', [{"text": "a", "b": ["c", ""]}]),
    "a list of texts and a number": (".jsonl", b'{"text": "a", "b": ["c", 1]}', [{"text": "a", "b": []}]),
    "a list of texts in Parquet": (".parquet", parquet({"text": ["a"], "b": [["c"]]}), [{"text": "a", "b": ["c"]}]),
    "a list with a missing text in Parquet": (
        ".parquet",
        parquet({"text": ["a"], "b": [["c", None]]}),
        [{"text": "a", "b": []}],
    ),
    "bytes in Parquet": (".parquet", parquet({"text": ["a"], "other": [b"\xff"]}), [{"text": "a", "other": []}]),
    "a date in Parquet": (".parquet", parquet({"text": ["a"], "day": [date(2026, 1, 1)]}), [{"text": "a", "day": []}]),
    "infinity in Parquet": (".parquet", parquet({"text": ["a"], "n": [math.inf]}), [{"text": "a", "n": []}]),
    "NaN in Parquet": (".parquet", parquet({"text": ["a"], "n": [math.nan]}), [{"text": "a", "n": None}]),
    "NaN in a used column": (".jsonl", b'{"text": "a"}\n{"text": NaN}\n', "line 2 has no value in the column 'text'"),
    "a list in a used column": (".jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', "line 2: the column 'text', which the"),
    "class names in Parquet": (".parquet", NAMED, [{"text": "a", "label": 1, "label_name": "fine"}]),
    "lists of class names in Parquet": (
        ".parquet",
        LISTED,
        [{"text": "a", "label": [1, 0], "label_name": ["fine", "bad"]}, {"text": "b", "label": [], "label_name": []}],
    ),
    "lists of labels": (
        ".jsonl",
        b'{"text": "a", "label": ["x", 1]}\n{"text": "b", "label": []}\n{"text": "c", "label": [{}]}\n',
        [{"text": "a", "label": ["x", 1]}, {"text": "b", "label": []}, {"text": "c", "label": [None]}],
    ),
    "a Parquet row of more than a mebibyte": (
        ".parquet",
        parquet({"text": ["a", "x" * 2**20]}),
        "row 2 takes more than 1048576 bytes",
    ),
    "a Parquet column twice": (
        ".parquet",
        table_bytes(pyarrow.table([["a"], ["b"]], names=["text", "text"])),
        "more than one column with the name 'text'",
    ),
}


def uploaded(client: TestClient, storage: Storage, ending: str, content: bytes) -> bytes | str:
    """The file that an upload stores, or the detail of the problem that refuses it."""
    media_type = FORMAT_BY_ENDING[ending].media_types[0]
    answer = client.post("/datasets", content=content, headers={"Content-Type": media_type})
    if answer.status_code != 201:
        assert answer.json()["code"] == "invalid_data"
        return str(answer.json()["detail"])
    return storage.get_bytes(dataset_key("default", answer.json()["id"]))


CLASSIFY = {"preset": "sst2"}
WRITE: dict[str, Any] = {"kind": "generation", "template": "{text}"}
CHAT: dict[str, Any] = {"kind": "generation", "messages": "messages"}
LABELS = {"B": "b", "C": "c"}


def read_by_worker(
    path: Path, storage: Storage, content: bytes, wording: dict[str, Any] = CLASSIFY | {"supervision": "none"}
) -> list[Any] | str:
    """The rows that the worker reads from a file, or the message with which it refuses the file."""
    path.write_bytes(content)
    task = resolve(Task.model_validate(wording | {"calibration": {"uri": "file:///x"}}))
    location = Location(storage, "default", path.parent)
    try:
        rows = read_source(DataSource(uri=path.as_uri()), "task.calibration", task, location)
    except InvalidData as error:
        return error.message.removeprefix(f"{path.as_uri()}: ")
    return [row.values for row in rows]


@pytest.mark.parametrize("name", FILES)
def test_an_upload_and_the_worker_give_the_same_answer(
    name: str, client: TestClient, storage: Storage, tmp_path: Path
) -> None:
    def again(content: bytes) -> list[Any] | str:
        return read_by_worker(tmp_path / "stored.jsonl", storage, content)

    ending, content, expected = FILES[name]
    stored = uploaded(client, storage, ending, content)
    answer = read_by_worker(tmp_path / f"rows{ending}", storage, content)
    if isinstance(expected, str):
        assert expected in answer
        # Which columns a task uses is not known of an upload: the worker refuses the stored rows in the same words.
        assert answer == (stored if isinstance(stored, str) else again(stored))
    else:
        assert answer == expected
        assert isinstance(stored, bytes)
        assert again(stored) == expected


LONG_ROWS = [{"text": "a", "label": "positive"}, {"text": "x" * 2**20, "label": "positive"}]
LONG_FILES = {
    ".jsonl": b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in LONG_ROWS),
    ".csv": "\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in LONG_ROWS)]).encode(),
    ".parquet": table_bytes(pyarrow.Table.from_pylist(LONG_ROWS)),
}
NESTED_ROWS: list[dict[str, Any]] = [{"text": "a", "label": "positive"}, {"text": ["b"], "label": "positive"}]
NESTED_FILES = {
    ".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in NESTED_ROWS),
    ".parquet": parquet({"text": [["a"], ["b"]], "label": ["positive"] * 2}),
}


def with_targets(*targets: Any) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows with these targets after a good one, inline and in files; Parquet has columns of one type only."""
    rows = [{"text": "a", "target": target} for target in (["b"], *targets)]
    files = {".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)}
    if all(isinstance(part, str) for target in targets for part in target):
        files[".parquet"] = table_bytes(pyarrow.Table.from_pylist(rows))
    return rows, files


def with_messages(*contents: Any) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows with answers of these contents after a good one, inline and in files."""
    question, right = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [{"messages": [question, right | {"content": content}]} for content in ("b", *contents)]
    files = {".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)}
    if all(isinstance(content, str) for content in contents):
        files[".parquet"] = table_bytes(pyarrow.Table.from_pylist(rows))
    return rows, files


REFUSED: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, bytes]]] = {
    "long": (CLASSIFY, LONG_ROWS, LONG_FILES),
    "nested": (CLASSIFY, NESTED_ROWS, NESTED_FILES),
    "no target": (WRITE, *with_targets([])),
    "a number among the targets": (WRITE, *with_targets(["b", 3])),
    "an empty text among the targets": (WRITE, *with_targets(["b", ""])),
    "an image in a message": (CHAT, *with_messages([{"type": "image", "url": "x"}])),
    "an empty message": (CHAT, *with_messages("")),
    "an answer that is no label": (CHAT | {"kind": "classification", "labels": LABELS}, *with_messages("d")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_a_file_must_not_have_is_refused_inside_a_request_too(
    name: str, client: TestClient, storage: Storage, tmp_path: Path
) -> None:
    (wording, rows, files), path = REFUSED[name], tmp_path / "stored.jsonl"
    for ending, content in files.items():
        stored = uploaded(client, storage, ending, content)
        again = stored if isinstance(stored, str) else read_by_worker(path, storage, stored, wording)
        assert isinstance(again, str)
        assert again.startswith(("line ", "row 2"))
        assert isinstance(read_by_worker(tmp_path / f"rows{ending}", storage, content, wording), str)
    body = request_body(tmp_path, task=wording | {"calibration": {"rows": rows}})
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["param"].startswith("task.calibration.rows")
    assert answer.json()["errors"][0]["message"].startswith("row 2")


def test_rows_with_one_target_or_several_are_read_alike(client: TestClient, storage: Storage, tmp_path: Path) -> None:
    rows = [{"text": "a", "target": ["b"]}, {"text": "a", "target": ["b", "c"]}]
    for ending, content in with_targets(["b", "c"])[1].items():
        stored = uploaded(client, storage, ending, content)
        assert isinstance(stored, bytes)
        assert read_by_worker(tmp_path / "stored.jsonl", storage, stored, WRITE) == rows
        assert read_by_worker(tmp_path / f"rows{ending}", storage, content, WRITE) == rows
    assert DataSource(rows=rows).rows == rows


def test_conversations_are_read_alike(client: TestClient, storage: Storage, tmp_path: Path) -> None:
    rows, files = with_messages("b", "c")
    for ending, content in files.items():
        stored = uploaded(client, storage, ending, content)
        assert isinstance(stored, bytes)
        for wording, labels in ((CHAT, {}), (CHAT | {"kind": "classification", "labels": LABELS}, {"label": "B"})):
            for path, body in ((tmp_path / "stored.jsonl", stored), (tmp_path / f"rows{ending}", content)):
                found = read_by_worker(path, storage, body, wording)
                assert found[:2] == [row | labels for row in rows[:2]]
    assert DataSource(rows=rows).rows == rows


def test_every_media_type_names_one_format() -> None:
    assert set(FORMAT_BY_MEDIA_TYPE.values()) == set(FORMAT_BY_ENDING.values())
