"""The division of rows among shards."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from worker.data.examples import Example
from worker.stages.shards.rows import spans


def example(tokens: int) -> Example:
    return Example(prompt=tuple(range(tokens)), candidates=((1,), (2,)), answer=0, text="")


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(1, 8))
def test_every_row_belongs_to_one_shard_in_order(sizes: list[int], of: int) -> None:
    found = spans([example(size) for size in sizes], of)
    assert len(found) == of
    assert list(chain(*found)) == list(range(len(sizes)))


@given(st.lists(st.integers(5, 20), min_size=64, max_size=80), st.integers(2, 8))
def test_shards_have_about_equally_many_tokens(sizes: list[int], of: int) -> None:
    totals = [sum(sizes[place] + 2 for place in span) for span in spans([example(size) for size in sizes], of)]
    assert max(totals) - min(totals) <= 2 * (20 + 2)


def test_shard_beside_a_long_row_may_have_none() -> None:
    assert [len(span) for span in spans([example(1), example(1000), example(1)], 3)] == [1, 1, 1]
    assert [len(span) for span in spans([example(1000), example(1), example(1)], 3)] == [0, 1, 2]
