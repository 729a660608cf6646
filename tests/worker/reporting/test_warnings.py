"""The warnings of a report: each is given for the figures that cause it, and for no others."""

from typing import Any

import pytest

from service.contract.answers.report import Confusion, Dequantised, LayerWidth, ReadTokens, Report, Synthesised, Written
from service.contract.answers.result import DenseSlim, Metrics, RecoveredMetrics, Result, Widths
from service.contract.options import DropReason, Unit
from service.models.families.runtimes.table import runtimes_of_unequal_widths
from service.models.families.table import FAMILIES
from tests.support.contract_examples import recovery, result
from tests.support.requests import plain_request
from worker.reporting.warnings.table import CHECKS, warnings

NOT_PUSHED = {"uri": "hf://owner/name", "files": 0, "bytes": 0}
NOT_PUSHED |= {"error": {"code": "push_failed", "message": "the model cannot be pushed to hf://owner/name"}}


def estimate(value: float, half_width: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half_width, "high": value + half_width}


def report(dense: float = 0.9, slim: float = 0.8, half_width: float = 0.02, **fields: Any) -> Report:
    """The report of a classification job without a warning, changed by `fields`."""
    metrics = [
        Metrics.model_validate(
            {"examples": 1000, "metric": "accuracy", "value": estimate(value, half_width)}
            | {"constant": 0.5, "majority": 0.5}
            | fields.pop(name, {})
        )
        for name, value in (("dense_metrics", dense), ("slim_metrics", slim))
    ]
    found = result().model_copy(update={"ratio": fields.pop("ratio", 0.3)})
    found = found.model_copy(
        update={"metrics": found.metrics.model_copy(update=dict(zip(("dense", "slim"), metrics, strict=True)))}
    )
    fixed: dict[str, Any] = {
        "job_id": "one",
        "attempt": 1,
        "request": plain_request(),
        "task": {},
        "family": "llama",
        "result": found,
        "options": {},
        "calibration_examples": 100,
        "shortened_prompts": 0,
        "timings": [],
        "versions": {},
        "digests": {},
        "snippet": "",
    }
    return Report(**fixed | fields)


def matrices(dense: list[list[int]], slim: list[list[int]]) -> Confusion:
    return Confusion(labels=["bad", "good"], dense=dense, slim=slim)


GENERATED = {"metric": "exact_match", "constant": None, "majority": None, "value": estimate(0.5)}

AGREEMENT = {"judged_by": "none"}


def kept(reported: float, low: float) -> dict[str, Any]:
    steering = {"value": 0.95, "low": 0.92, "high": 0.98}
    return {
        "metric": "accuracy",
        "floor": 0.9,
        "steering_examples": 100,
        "steering": steering,
        "reported_examples": 100,
        "reported": {"value": reported, "low": low, "high": 0.98},
        "seed": 0,
    }


def with_target(target: dict[str, Any], **fields: Any) -> Report:
    """The report of a job with another target; the slim model takes 1 ms."""
    made = report()
    changed = Result.model_validate(made.result.model_dump() | fields)
    return made.model_copy(update={"request": plain_request(target=target), "result": changed})


def recovered(before: float, after: float, best_step: int) -> Report:
    """The report of a job with a recovery."""
    made = report(slim=after)
    metrics = made.result.metrics
    slim = metrics.slim.model_copy(update={"value": metrics.slim.value.model_copy(update={"value": before})})
    models = RecoveredMetrics(dense=metrics.dense, slim=slim, recovered=metrics.slim)
    found = recovery().model_copy(update={"metrics": models, "best_step": best_step})
    return made.model_copy(update={"result": made.result.model_copy(update={"recovery": found})})


def synthesised(kept: int) -> Synthesised:
    """Eight written rows, of which some were kept."""
    rows = Written(written=8, kept=kept, dropped={DropReason.inconsistent: 8 - kept})
    return Synthesised(writer="file:///writer", chat=True, given=10, rows=rows)


def without_rationales() -> Report:
    """The report of a job that asked for a training on rationales, of which none was kept."""
    asked = {"uri": "file:///rows.jsonl"}
    task = {"template": "{text}", "labels": {"a": "b", "c": "d"}, "calibration": asked}
    request = plain_request(
        task=task | {"synthesis": {"rationales": True}}, recovery={"stages": ["rationale", "answer"]}
    )
    return recovered(before=0.7, after=0.8, best_step=8).model_copy(update={"request": request})


def point(ratio: float, **fields: Any) -> dict[str, Any]:
    return {"ratio": ratio, "parameters": 10, "bytes": 40} | fields


OWN_CLASS = result().verified.model_copy(update={"loader": "PerLayerForCausalLM"}).model_dump()
CAUSES: dict[str, Report] = {
    "at_majority": report(slim=0.51),
    "offsets_mislead": report(slim_metrics={"raw": estimate(0.85)}),
    "unresolved_loss": report(slim=0.88, half_width=0.05),
    "damage_in_one_class": report(confusion=matrices([[450, 50], [50, 450]], [[360, 140], [45, 455]])),
    "one_answer": report(confusion=matrices([[450, 50], [50, 450]], [[60, 440], [30, 470]])),
    "empty_answers": report(
        dense_metrics=GENERATED | {"empty": 0.02},
        slim_metrics=GENERATED | {"empty": 0.4, "value": estimate(0.1)},
    ),
    "repetition": report(
        dense_metrics=GENERATED | {"repetition": 0.02},
        slim_metrics=GENERATED | {"repetition": 0.4, "value": estimate(0.1)},
    ),
    "ratio_rounded": report(ratio=0.2),
    "dequantised": report(dequantised=Dequantised(format="FP8", dtype="bfloat16", bytes=2_000_000)),
    "overflows_in_half": report(stored_dtype="float16", computed_dtype="float32", family="t5"),
    "rounded_weights": report(stored_dtype="bfloat16", rounded_dtypes=["float32"]),
    "special_tokens_in_template": report(written_special_tokens=["<s>"]),
    "shortened_prompts": report(shortened_prompts=400),
    "not_pushed": with_target({"ratio": 0.3}, pushed=NOT_PUSHED),
    "judged_by_dense": report(dense_metrics=AGREEMENT, slim_metrics=AGREEMENT),
    "collapse": with_target({"sweep": [0.3]}, curve=[point(0.2), point(0.3, collapse="one_label")]),
    "above_latency": with_target({"latency_ms": 0.9}),
    "below_floor": with_target({"keep_metric": 0.9}, kept_metric=kept(reported=0.91, low=0.89)),
    "dense_fails": report(dense_metrics={"value": estimate(0.5)}),
    "few_written": report(synthesis={"reviews": synthesised(kept=1)}),
    "no_rationales": without_rationales(),
    "not_recovered": recovered(before=0.8, after=0.8, best_step=0),
    "per_layer_widths": with_target({"ratio": 0.3}, verified=OWN_CLASS).model_copy(
        update={"runtimes": runtimes_of_unequal_widths(FAMILIES["llama"], [Unit.ffn])}
    ),
    "more_tokens": report(read_tokens=ReadTokens(rows=10, longer_rows=2, dense=100, slim=104)),
    "experts_without_tokens": report().model_copy(
        update={
            "layers": [
                LayerWidth(
                    stack="decoder",
                    layer=3,
                    unit=Unit.ffn,
                    part="expert_ffn",
                    dense=512,
                    slim=256,
                    score_kept=0.9,
                    experts_without_tokens=2,
                )
            ]
        }
    ),
    "uneven_machine": with_target({"ratio": 0.3}, latency_ms=result().latency_ms.model_copy(update={"drift": 0.7})),
    "fewer_experts_per_token": with_target(
        {"ratio": 0.3},
        widths=[Widths(stack="decoder", unit=Unit.experts, dense=8, slim=1, per_token=DenseSlim(dense=2, slim=1))],
    ),
}


def codes(cause: Report) -> set[str]:
    return {warning.code for warning in warnings(cause)}


def test_a_regression_has_a_constant_answer_without_labels() -> None:
    numbers = {"metric": "pearson", "constant": 0.0, "majority": None}
    found = warnings(report(0.01, 0.3, dense_metrics=numbers, slim_metrics=numbers))
    [message] = [warning.message for warning in found if warning.code == "dense_fails"]
    assert "that of the same number for all rows is 0.0" in message
    assert "label" not in message
    assert "at_majority" not in {warning.code for warning in found}


def test_even_loss_gives_no_warning() -> None:
    even = matrices([[450, 50], [50, 450]], [[400, 100], [100, 400]])
    assert codes(report(confusion=even)) == set()


def test_recovery_is_warned_of_where_the_metric_did_not_rise() -> None:
    assert codes(recovered(before=0.7, after=0.8, best_step=8)) == set()
    [found] = warnings(recovered(before=0.8, after=0.75, best_step=8))
    assert "did not improve the model" in found.message
    assert "model-untrained" in found.message


def test_every_warning_has_a_cause_here() -> None:
    assert CAUSES.keys() == CHECKS.keys()


@pytest.mark.parametrize("code", CAUSES)
def test_each_cause_gives_its_warning(code: str) -> None:
    assert code in codes(CAUSES[code])


def test_search_that_meets_its_target_gives_no_warning() -> None:
    assert codes(with_target({"latency_ms": 1.1})) == set()
    assert codes(with_target({"keep_metric": 0.9}, kept_metric=kept(reported=0.93, low=0.9))) == set()


def test_loss_in_every_class_gives_no_warning_of_one_class() -> None:
    even = matrices([[450, 50], [50, 450]], [[400, 100], [110, 390]])
    assert "damage_in_one_class" not in codes(report(confusion=even))


def test_repetition_of_both_models_gives_no_warning() -> None:
    both = GENERATED | {"repetition": 0.4}
    assert "repetition" not in codes(report(dense_metrics=both, slim_metrics=both))


def test_dense_model_that_fails_the_task_gives_a_warning() -> None:
    chance = {"value": estimate(0.5)}
    assert "dense_fails" in codes(report(dense_metrics=chance))
    silent = GENERATED | {"value": estimate(0.0)}
    assert "dense_fails" in codes(report(dense_metrics=silent, slim_metrics=silent))
    assert "dense_fails" not in codes(report(dense_metrics=GENERATED, slim_metrics=silent))


def test_change_of_zero_has_no_sign() -> None:
    same = report(slim_metrics={"value": estimate(0.9)}, dense_metrics={"value": estimate(0.9)})
    [message] = [each.message for each in warnings(same) if each.code == "unresolved_loss"]
    assert "the change of 0.0 points" in message


def test_runtimes_that_do_not_load_unequal_widths_are_those_of_the_report() -> None:
    [warning] = warnings(CAUSES["per_layer_widths"])
    assert "vLLM with `--trust-remote-code`" in warning.message
    assert "do not load it: SGLang, llama.cpp, mlx-lm." in warning.message
    runtimes = runtimes_of_unequal_widths(FAMILIES["bert"], [Unit.ffn])
    [warning] = warnings(CAUSES["per_layer_widths"].model_copy(update={"runtimes": runtimes}))
    assert "--trust-remote-code" not in warning.message
    assert "do not load it: vLLM, SGLang, llama.cpp, mlx-lm." in warning.message


def test_message_contains_its_figures() -> None:
    [warning] = [
        warning for warning in warnings(CAUSES["damage_in_one_class"]) if warning.code == "damage_in_one_class"
    ]
    assert "'bad'" in warning.message
    assert "of 90 right answers that were lost, 90" in warning.message
