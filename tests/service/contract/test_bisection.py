"""Bisection against a search through all numbers."""

from hypothesis import given
from hypothesis import strategies as st

from service.contract.bisection import PRECISION, last_that_holds, turning_point


@given(data=st.data(), count=st.integers(0, 300))
def test_bisection_finds_the_last_that_holds_with_few_calls(data: st.DataObject, count: int) -> None:
    truth = data.draw(st.integers(0, count))
    first = data.draw(st.none() | st.integers(1, count)) if count else None
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= truth

    assert last_that_holds(count, holds, first) == truth
    assert len(asked) == len(set(asked)) <= count.bit_length() + (first is not None)
    assert first is None or asked[0] == first


@given(st.floats(0, 1))
def test_the_turning_point_lies_between_its_two_sides(truth: float) -> None:
    low, high = turning_point(-0.5, 1.5, lambda number: number <= truth)
    assert low <= truth < high <= low + PRECISION
