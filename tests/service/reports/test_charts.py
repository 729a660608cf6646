"""The coordinates and texts of the report's charts."""

from typing import Any

from service.contract.answers.report import LayerWidth, Report
from service.contract.answers.result import CurvePoint
from service.contract.options import Unit
from service.jobs.record import new_record
from service.reports.charts import Cell, across, curve, heat_maps, intervals
from service.reports.formatting import percent
from tests.support.contract_examples import report, result
from tests.support.requests import plain_request


def layers(number: int, stack: str = "decoder", part: str = "ffn") -> list[LayerWidth]:
    return [
        LayerWidth(stack=stack, layer=layer, unit=Unit.ffn, part=part, dense=100, slim=70 - layer, score_kept=0.9)
        for layer in range(number)
    ]


def test_heat_map_has_a_cell_for_each_layer() -> None:
    units, score = heat_maps(layers(40))
    assert [(map.name, map.quantity, len(map.cells)) for map in (units, score)] == [
        ("decoder ffn", "units", 40),
        ("decoder ffn", "score", 40),
    ]
    assert units.cells[32] == Cell(layer=32, share=0.38)


def test_each_stack_and_kind_of_unit_has_a_heat_map() -> None:
    maps = heat_maps([*layers(2), *layers(2, part="cross_heads"), *layers(4, stack="encoder")])
    named = [(map.name, len(map.cells)) for map in maps if map.quantity == "units"]
    assert named == [("decoder cross_heads", 2), ("decoder ffn", 2), ("encoder ffn", 4)]


def test_scores_without_a_known_share_have_no_heat_map() -> None:
    unknown = [layer.model_copy(update={"score_kept": None}) for layer in layers(3)]
    assert [map.quantity for map in heat_maps(unknown)] == ["units"]
    assert list(heat_maps([])) == []


def test_interval_encloses_its_estimate() -> None:
    metrics = result().metrics
    first, second = intervals([("dense", metrics.dense), ("slim", metrics.slim)])
    assert across(0) < first.low < first.at < first.high < across(1)
    assert first.y < second.y
    assert across(-0.1) == across(0)  # a negative correlation


def searched(*points: dict[str, Any], **target: Any) -> Report:
    """A report of a search with these points; the final model has 7 of 10 parameters."""
    made = report(new_record(plain_request(target=target)), 1)
    found = [CurvePoint.model_validate({"ratio": 0.1, "bytes": 1} | point) for point in points]
    return made.model_copy(update={"result": result().model_copy(update={"curve": found})})


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def test_curve_has_a_mark_for_each_measured_model_and_the_dense_one() -> None:
    made = searched(
        {"parameters": 9, "metric": estimate(0.48), "share": estimate(0.96), "meets": True},
        {"parameters": 7, "metric": estimate(0.46), "share": estimate(0.92), "meets": True},
        {"parameters": 5, "metric": estimate(0.2), "share": estimate(0.4), "meets": False},
        keep_metric=0.9,
    )
    drawn = curve(made)
    assert drawn is not None
    assert sorted((mark.x, mark.kind) for mark in drawn.marks) == [
        (mark.x, kind)
        for mark, kind in zip(
            sorted(drawn.marks, key=lambda mark: mark.x), ("missed", "chosen", "met", "dense"), strict=True
        )
    ]
    best, worst = min(drawn.marks, key=lambda mark: mark.y), max(drawn.marks, key=lambda mark: mark.y)
    assert (best.kind, worst.kind) == ("dense", "missed")
    assert best.low is not None
    assert drawn.bound is not None
    assert best.y < drawn.bound < worst.y
    assert len(drawn.line.split()) == 4


def test_y_axis_of_low_metrics_ends_at_ten_percent() -> None:
    low = {"metric": {"value": 0.006, "low": 0.005, "high": 0.007}, "share": estimate(0.9)}
    drawn = curve(searched({"parameters": 9} | low, {"parameters": 7} | low, sweep=[0.1, 0.3]))
    assert drawn is not None
    assert drawn.y_ticks[-1][1] == "10 %"


def test_dense_mark_and_bound_use_the_metric_of_the_search() -> None:
    likely = {"examples": 20, "metric": "token_probability", "value": estimate(0.9)}
    made = searched(
        {"parameters": 9, "metric": estimate(0.36), "share": estimate(0.9), "examples": 40, "meets": True},
        {"parameters": 5, "metric": estimate(0.2), "share": estimate(0.55), "examples": 16, "meets": False},
        keep_metric=0.5,
    )
    result = made.result.model_dump() | {"metrics": {"dense": likely, "slim": likely}}
    drawn = curve(Report.model_validate(made.model_dump() | {"task": {"kind": "generation"}, "result": result}))
    assert drawn is not None
    dense = next(mark for mark in drawn.marks if mark.kind == "dense")
    assert dense.name == "10 parameters: 40.0\N{NO-BREAK SPACE}%"
    met = next(mark for mark in drawn.marks if mark.kind == "met")
    assert dense.y < met.y
    assert drawn.bound == max(mark.y for mark in drawn.marks)  # 0.5 of 0.4, where the smallest model lies
    assert drawn.metric == "probability of a token"
    assert drawn.title.startswith("Probability of a token")


def test_curve_of_a_latency_search_shows_milliseconds() -> None:
    made = searched({"parameters": 9, "latency_ms": 4.0}, {"parameters": 7, "latency_ms": 3.0}, latency_ms=3.5)
    drawn = curve(made)
    assert drawn is not None
    slow, fast = drawn.marks
    assert drawn.bound is not None
    assert slow.y < drawn.bound < fast.y
    assert slow.low is None


def test_job_without_a_search_has_no_curve() -> None:
    assert curve(searched(ratio=0.3)) is None


def test_general_weights_are_a_curve_of_the_task_against_general_rows() -> None:
    shares: dict[str, Any] = {"share": estimate(0.9), "general_share": estimate(0.5)}
    points: list[dict[str, Any]] = [
        {"parameters": 7, "general_weight": weight, "metric": estimate(task), "general": estimate(general)} | shares
        for weight, task, general in ((0, 0.9, 0.2), (0.5, 0.8, 0.4), (1, 0.6, 0.35))
    ]
    task = {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}, "general": {"uri": "file:///texts.jsonl"}}
    made = searched(*points, ratio=0.3)
    fields = {"task": task, "target": {"ratio": 0.3, "general_weights": [0, 1]}, "method": {"general_weight": 0.5}}
    found = curve(made.model_copy(update={"request": plain_request(**fields)}))
    assert found is not None
    assert [mark.kind for mark in found.marks] == ["measured", "chosen", "measured"]
    first, second, third = found.marks
    assert first.x < third.x < second.x  # by the metric on general rows
    assert first.y < second.y < third.y  # downwards
    assert first.left is not None
    assert first.right is not None
    assert first.left < first.x < first.right
    assert found.line.startswith(f"{first.x},{first.y} {second.x},{second.y}")  # in the order of the weights
    kept = f"{percent(0.9)} and {percent(0.5)} of the dense model"
    assert first.name == f"general weight 0: {kept} on the task and on general rows"
