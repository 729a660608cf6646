"""The page of a report shows the training of the slim model, and the rows that were written for it."""

from service.contract.answers.report import (
    Synthesised,
    Written,
)
from service.contract.answers.result import (
    RationaleTraining,
    StoppedBy,
)
from service.contract.options import DropReason
from service.reports.charts import loss_curve
from service.reports.html import render
from tests.support.contract_examples import recovery, result
from tests.support.reports import report

EVIL = "<script>alert(1)</script>"


def test_recovery_is_shown_with_the_three_models_and_its_losses() -> None:
    found = recovery()
    curve = loss_curve(found)
    assert curve is not None
    places = [tuple(map(float, point.split(","))) for point in curve.held_out.split()]
    assert curve.best == places[2] == min(places, key=lambda place: -place[1])
    assert [x for x, _ in places] == [x for x, _ in sorted(places)]
    assert len(curve.train.split()) == 3
    page = render(report(result=result().model_copy(update={"recovery": found}).model_dump()))
    for text in (
        "trained on 80 calibration rows for 12 steps",
        "the weights of step 8 were kept",
        "with the weight 0.5, the right answers",
        f'points="{curve.held_out}"',
        "<code>model-untrained</code>",
        "slim, before the training",
        "those of the trained model in memory",
    ):
        assert text in page
    assert "Recovery" not in render(report())
    assert loss_curve(None) is None


def test_written_rows_and_rationales_are_counted_by_what_became_of_them() -> None:
    rows = Written(written=9, kept=5, dropped={DropReason.inconsistent: 3, DropReason.only_answer: 1})
    rationales = Written(written=7, kept=7)
    found = Synthesised(writer=EVIL, chat=True, given=24, rows=rows, labels={"pos": 4, "neg": 1}, rationales=rationales)
    page = render(report(synthesis={"sst2": found}))
    assert "inconsistent: 3, only answer: 1" in page
    assert "pos: 4, neg: 1" in page
    assert "sst2: rationales" in page
    assert EVIL not in page


def test_the_stage_on_rationales_is_told() -> None:
    stage = RationaleTraining(
        losses=[], steps=4, best_step=4, stopped_by=StoppedBy.steps, seconds=1, train_rows=12, held_out_rows=3
    )
    trained = recovery().model_copy(update={"rationales": stage})
    page = render(report(result=result().model_copy(update={"recovery": trained})))
    assert "trained on 12 rationales for 4 of these steps" in page
