"""Where the report's drawings put what they show."""

from service.drawings import Cell, across, heat_maps, intervals
from service.schemas import LayerWidth, Unit
from tests.records import result


def layers(number: int, stack: str = "decoder", part: str = "ffn") -> list[LayerWidth]:
    return [
        LayerWidth(stack=stack, layer=layer, unit=Unit.ffn, part=part, dense=100, slim=70 - layer, score_kept=0.9)
        for layer in range(number)
    ]


def test_deep_stacks_go_on_in_another_map() -> None:
    first, second = heat_maps(layers(40))
    assert [(map.first, map.columns) for map in (first, second)] == [(0, 32), (32, 8)]
    assert [(row.what, len(row.cells)) for row in second.rows] == [("units", 8), ("score", 8)]
    assert second.rows[0].cells[0] == Cell(column=0, layer=32, share=0.38)


def test_parts_and_stacks_share_the_columns_of_one_map() -> None:
    [map] = heat_maps([*layers(2), *layers(2, part="cross_heads"), *layers(4, stack="encoder")])
    named = [(row.name, len(row.cells)) for row in map.rows if row.what == "units"]
    assert named == [("decoder cross_heads", 2), ("decoder ffn", 2), ("encoder ffn", 4)]
    assert map.columns == 4
    assert map.left > 6 * len("decoder cross_heads")


def test_scores_that_are_no_shares_have_no_line() -> None:
    unknown = [layer.model_copy(update={"score_kept": None}) for layer in layers(3)]
    [map] = heat_maps(unknown)
    assert [row.what for row in map.rows] == ["units"]
    assert list(heat_maps([])) == []


def test_an_interval_lies_around_its_estimate() -> None:
    metrics = result().metrics
    first, second = intervals([("dense", metrics.dense), ("slim", metrics.slim)])
    assert across(0) < first.low < first.at < first.high < across(1)
    assert first.y < second.y
    assert (
        intervals([("dense", metrics.dense.model_copy(update={"accuracy": None, "calibrated_accuracy": None}))]) == []
    )
