"""The measurements of a job's models: with their own label offsets, fitted on calibration rows alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.errors import InvalidRequest
from tests.support.pipeline_jobs import WORDS
from tests.support.searches import search_job
from worker.evaluation.label_offsets import fit
from worker.stages.task_model import answer_all, evaluate

WRITING: dict[str, Any] = {"kind": "generation", "labels": None}


def skewed(path: Path, count: int = 40) -> str:
    """The URI of rows of which three in four have one label."""
    rows = [{"text": f"{WORDS[row % 7]} {WORDS[row % 5]}", "label": int(row % 4 == 0)} for row in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.as_uri()


def test_offsets_are_fitted_on_calibration_rows_alone(tmp_path: Path) -> None:
    job = search_job(tmp_path, task={"calibration": {"uri": skewed(tmp_path / "skewed.jsonl")}})
    whole = {
        "evaluation": job.task_model,
        "calibration": replace(job.task_model, evaluation=job.task_model.calibration),
    }
    answers = {name: found.scores for name, found in answer_all(job.context, whole).items()}
    offset_L = fit(answers["calibration"].score_EL, answers["calibration"].answer_E)
    measured = evaluate(job.context, job.task_model)
    assert measured.answers.offset_L is not None
    torch.testing.assert_close(measured.answers.offset_L, offset_L)
    score_EL, right_E = answers["evaluation"].score_EL, answers["evaluation"].answer_E
    shipped, raw = (
        (each_EL.argmax(dim=1) == right_E).double().mean().item() for each_EL in (score_EL + offset_L, score_EL)
    )
    assert measured.metrics.raw is not None
    assert (measured.metrics.value.value, measured.metrics.raw.value) == (shipped, raw)
    assert measured.given == [list(job.task_model.wording.words)[i] for i in (score_EL + offset_L).argmax(dim=1)]


def test_dense_and_slim_model_have_offsets_of_their_own(tmp_path: Path) -> None:
    job = search_job(tmp_path, target={"sweep": [0.5]}, output={"round_to": 1})
    chosen = job.search()
    slim = evaluate(job.context, chosen.task_model)
    assert chosen.dense.answers.offset_L is not None
    assert slim.answers.offset_L is not None
    assert not torch.equal(chosen.dense.answers.offset_L, slim.answers.offset_L)
    assert chosen.curve[0].metric is not None
    assert chosen.curve[0].metric.value == slim.metrics.value.value


LABEL_METRICS = ("balanced_accuracy", "macro_f1", "matthews")
TEXT_METRICS = ("exact_match", "token_f1", "rouge_l", "chrf", "token_probability")
TASKS = [{"metric": metric} for metric in LABEL_METRICS] + [WRITING | {"metric": metric} for metric in TEXT_METRICS]


@pytest.mark.parametrize("task", TASKS, ids=[*LABEL_METRICS, *TEXT_METRICS])
def test_metric_judges_both_models_and_the_sweep(tmp_path: Path, task: dict[str, Any]) -> None:
    job = search_job(tmp_path, task=task, num_rows=20, target={"sweep": [0.3]})
    chosen = job.search()
    slim = evaluate(job.context, chosen.task_model).metrics
    assert chosen.dense.metrics.metric == slim.metric == task["metric"]
    assert chosen.curve[0].metric is not None
    assert chosen.curve[0].metric.value == pytest.approx(slim.value.value, abs=1e-6)
    assert (slim.raw is None, slim.constant is None) == (chosen.task_model.generates,) * 2


def test_dense_metric_of_zero_cannot_be_kept(tmp_path: Path) -> None:
    task = WRITING | {"metric": "exact_match"}
    with pytest.raises(InvalidRequest, match=r"give `task\.metric: token_probability`") as caught:
        search_job(tmp_path, task=task, num_rows=12, target={"keep_metric": 0.5}).search()
    assert caught.value.param == "task.metric"


def test_a_floor_under_a_label_metric_is_searched_by_that_metric(tmp_path: Path) -> None:
    target = {"keep_metric": 0.5}
    job = search_job(tmp_path, task={"metric": "balanced_accuracy"}, target=target, output={"round_to": 1})
    chosen = job.search()
    assert chosen.steering is not None
    assert chosen.steering.found.kept.share.low >= 0.5
    assert chosen.dense.metrics.metric == "balanced_accuracy"
