"""Recombined rows consist of the words of the rows that they were made from."""

from hypothesis import given
from hypothesis import strategies as st

from service.contract.rows import Row
from worker.data.recombination import recombined

WORDS = st.text("abcdef", min_size=1, max_size=4)
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXTS, "text_b": TEXTS}), min_size=2, max_size=6)


def rows_of(values: list[dict[str, str]]) -> list[Row]:
    return [Row({**each, "label": "a"}, line) for line, each in enumerate(values, start=1)]


@given(ROWS, st.integers(0, 20), st.integers(0, 5))
def test_recombined_text_begins_as_one_row_and_ends_as_another(
    values: list[dict[str, str]], count: int, seed: int
) -> None:
    rows = rows_of(values)
    found = recombined(rows, ["text", "text_b"], count, seed)
    assert len(found) == count
    for row in found:
        assert set(row.values) == {"text", "text_b"}
        for column in ("text", "text_b"):
            words = row.text(column).split()
            sources = [each.text(column).split() for each in rows]
            assert words
            assert any(
                words[:cut] == first[:cut] and words[cut:] == last[len(last) - len(words) + cut :]
                for first in sources
                for last in sources
                for cut in range(len(words) + 1)
                if len(first) >= cut and len(last) >= len(words) - cut
            )


@given(ROWS, st.integers(0, 5))
def test_recombined_rows_depend_on_rows_and_seed_alone(values: list[dict[str, str]], seed: int) -> None:
    assert recombined(rows_of(values), ["text"], 5, seed) == recombined(rows_of(values), ["text"], 5, seed)


def test_number_is_recombined_as_its_text() -> None:
    rows = [Row({"text": 7}, 1), Row({"text": 8}, 2)]
    assert {row.text("text") for row in recombined(rows, ["text"], 40)} <= {"7", "8", "7 8", "8 7", "7 7", "8 8"}
