"""Rows that are drawn by seed, balanced by label, set aside, or ordered with every label in proportion."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import InvalidData
from service.rows.row import Row
from service.storage.draws import draw, draw_balanced
from worker.data.sampling import set_aside, stratified_order


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
    with pytest.raises(InvalidData, match="line 54 has no value in the column 'label'"):
        draw_balanced([*rows, Row({"text": "x"}, 54)], 4, 1, "label")


def test_a_fifth_of_every_label_is_set_aside() -> None:
    rows = rows_of("a" * 80 + "b" * 20)
    stay, aside = set_aside(rows, "label", seed=3)
    assert Counter(row.values["label"] for row in aside) == {"a": 16, "b": 4}
    assert sorted(row.line for row in stay + aside) == list(range(1, 101))


def test_too_few_rows_to_set_any_aside_are_refused() -> None:
    with pytest.raises(InvalidData, match="name evaluation rows"):
        set_aside(rows_of("aaaaab"), "label", seed=0)
    with pytest.raises(InvalidData, match="name evaluation rows"):
        set_aside(rows_of("a"), None, seed=0)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60), st.integers(0, 2**20))
def test_both_halves_have_the_labels_in_proportion(labels: list[str], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    first = [labels[row] for row in order[: len(order) // 2]]
    for label in set(labels):
        assert abs(first.count(label) - labels.count(label) / 2) <= len(set(labels))
    assert order == stratified_order(labels, seed)
