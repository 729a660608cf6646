import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.contract.errors import InvalidData
from worker.data.rows import Row, draw, draw_balanced, read, set_aside

ROWS = [{"text": 'a "good" one,\nreally', "label": "positive"}, {"text": "grün", "label": "negative"}]


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS))


def write_csv(path: Path) -> None:
    path.write_text('text,label\n"a ""good"" one,\nreally",positive\ngrün,negative\n', encoding="utf-8-sig")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(("ending", "write"), [("jsonl", write_jsonl), ("csv", write_csv), ("parquet", write_parquet)])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str, write: object) -> None:
    path = tmp_path / f"rows.{ending}"
    write(path)  # type: ignore[operator]
    assert [row.values for row in read(path)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2 is not a JSON object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "line 2 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.csv", b"text,label\nx,y\nx,y,z\n", "line 3 has more columns"),
        ("a.csv", b'text,label\nx,y\n"x,y\n', "line 3 is not CSV"),
        ("a.csv", b"text,label\nx,\xff\n", "is not CSV in UTF-8"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.parquet", b"PAR1 no", "is not Parquet"),
        ("a.txt", b"x", "does not end in one of .jsonl, .csv, .parquet"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        read(tmp_path / name)


def test_a_short_csv_row_lacks_its_last_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,y\nx\n")
    with pytest.raises(InvalidData, match="line 3 has no 'label'"):
        read(tmp_path / "a.csv")[1].text("label")


def rows_of(labels: str) -> list[Row]:
    return [Row({"text": f"{number}", "label": label}, number) for number, label in enumerate(labels, start=1)]


def test_a_draw_is_the_same_for_a_seed_and_differs_between_seeds() -> None:
    rows = rows_of("ab" * 50)
    assert draw(rows, 10, seed=1) == draw(rows, 10, seed=1)
    assert draw(rows, 10, seed=1) != draw(rows, 10, seed=2)
    assert len({row.line for row in draw(rows, 10, seed=1)}) == 10
    assert draw(rows, None, seed=1) == draw(rows, 1000, seed=1) == rows


@pytest.mark.parametrize(("limit", "each"), [(16, {6, 5}), (32, {11, 10}), (None, {20})])
def test_a_balanced_draw_has_as_many_rows_of_each_label_or_one_more(limit: int | None, each: set[int]) -> None:
    rows = rows_of("aaab" * 20 + "c" * 20)
    drawn = draw_balanced(rows, limit, seed=1, label_column="label")
    counts = Counter(row.values["label"] for row in drawn)
    assert set(counts.values()) == each
    assert set(counts) == {"a", "b", "c"}
    assert [row.line for row in drawn] == sorted({row.line for row in drawn})


def test_a_balanced_draw_is_the_same_for_a_seed_and_ends_with_the_rarest_label() -> None:
    rows = rows_of("a" * 50 + "b" * 3)
    assert draw_balanced(rows, 4, 1, "label") == draw_balanced(rows, 4, 1, "label")
    assert draw_balanced(rows, 4, 1, "label") != draw_balanced(rows, 4, 2, "label")
    assert Counter(row.values["label"] for row in draw_balanced(rows, 32, 1, "label")) == {"a": 3, "b": 3}
    with pytest.raises(InvalidData, match="line 54 has no 'label'"):
        draw_balanced([*rows, Row({"text": "x"}, 54)], 4, 1, "label")


def test_a_fifth_of_every_label_is_set_aside() -> None:
    rows = rows_of("a" * 80 + "b" * 20)
    stay, aside = set_aside(rows, "label", seed=3)
    assert Counter(row.values["label"] for row in aside) == {"a": 16, "b": 4}
    assert sorted(row.line for row in stay + aside) == list(range(1, 101))


def test_too_few_rows_to_set_any_aside_are_refused() -> None:
    with pytest.raises(InvalidData, match="evaluation set"):
        set_aside(rows_of("aaaaab"), "label", seed=0)
    with pytest.raises(InvalidData, match="evaluation set"):
        set_aside(rows_of("a"), None, seed=0)
