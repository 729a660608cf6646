"""The order of the rows of a sequential test."""

from hypothesis import given
from hypothesis import strategies as st

from worker.evaluation.sequential import stratified_order


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60), st.integers(0, 2**20))
def test_both_halves_have_the_labels_in_proportion(labels: list[str], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    first = [labels[row] for row in order[: len(order) // 2]]
    for label in set(labels):
        assert abs(first.count(label) - labels.count(label) / 2) <= len(set(labels))
    assert order == stratified_order(labels, seed)
