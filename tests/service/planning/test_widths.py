"""The counts of units that a plan says are kept are those that the worker keeps."""

from hypothesis import given
from hypothesis import strategies as st

from service.planning.widths import nearest
from tests.support.tiny_models import causal
from worker.slimming.allocation import WidthUnreachable, width
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units.locating import locate


@given(count=st.integers(1, 4096), ratio=st.floats(0.01, 0.95), round_to=st.integers(1, 300))
def test_a_plan_keeps_as_many_neurons_as_the_worker(count: int, ratio: float, round_to: int) -> None:
    group = locate(causal("llama", num_hidden_layers=1), ARCHITECTURES["llama"], ["ffn"])[0]
    group = type(group)(**{**vars(group), "count": count})
    try:
        expected = width(group, ratio, round_to)
    except WidthUnreachable:
        expected = 0
    assert nearest([0, *range(round_to, count + 1, round_to)], (1 - ratio) * count) == expected
