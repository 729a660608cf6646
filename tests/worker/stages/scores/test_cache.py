"""The score cache: stored measurements are reused, and plans find them."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from service.contract.request.job_request import JobRequest
from service.jobs.submission import access_of
from service.sources.fingerprints import fingerprints
from service.storage.keys import dataset_key, score_key
from service.tenants.api_keys import ANONYMOUS
from tests.support.pipeline_jobs import LABELS, WORDS
from tests.support.scoring_jobs import STEPS, ScoringJobs, alike
from worker.search.candidates import Candidates
from worker.stages import pseudo_labels
from worker.stages.evaluation.evaluation_sets import EvaluationSet, Role
from worker.stages.scores.attribution import attribute, step_ratios


@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_second_job_reuses_the_scores_of_the_first(jobs: ScoringJobs, method: dict[str, Any]) -> None:
    first, measured = jobs.path(jobs.request(method=method))
    again, taken = jobs.path(jobs.request(method=method))
    assert jobs.measured == 1
    assert (first.outcome()["scores_reused"], again.outcome()["scores_reused"]) == (False, True)
    assert first.outcome()["scores"] == again.outcome()["scores"]
    assert alike(measured, taken)
    assert jobs.store.get("default", first.outcome()["scores"]).job_id == first.context.job.id


@pytest.mark.parametrize("target", [{"ratio": 0.5}, {"sweep": [0.25, 0.5]}], ids=["ratio", "sweep"])
@pytest.mark.parametrize("method", [{}, STEPS], ids=["one step", "two steps"])
def test_repair_is_the_same_with_measured_and_with_reused_scores(
    jobs: ScoringJobs, target: dict[str, Any], method: dict[str, Any]
) -> None:
    repaired = []
    for _ in range(2):
        cache, task_model = jobs.cache(jobs.request(method=method, target=target))
        ratios = step_ratios(cache.context.job.request)
        path = cache.path(task_model, ratios, partial(attribute, cache.context, task_model, ratios))
        candidates = Candidates(cache.context, task_model, path)
        cut = candidates.slim_copy(candidates.at(0.5)).loaded.model
        repaired.append((path.moments is not None, cache.outcome()["scores_reused"], cut.state_dict()))
    (remembered, _, first), (again, reused, second) = repaired
    assert (remembered, again, reused) == (True, False, True)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tenants_do_not_share_scores(jobs: ScoringJobs) -> None:
    _, measured = jobs.path(jobs.request(), tenant="search")
    other, taken = jobs.path(jobs.request(), tenant="ads")
    assert jobs.measured == 2
    assert not other.outcome()["scores_reused"]
    assert alike(measured, taken)


@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_damaged_or_deleted_scores_are_measured_again(jobs: ScoringJobs, loss: str) -> None:
    first, measured = jobs.path(jobs.request())
    [digest] = first.paths
    stored = jobs.store.get("default", digest)
    if loss == "damaged":
        jobs.storage.put_bytes(b"x" * stored.size, score_key("default", digest, stored.sha256))
    else:
        jobs.store.delete("default", digest)
    second, again = jobs.path(jobs.request())
    third, _ = jobs.path(jobs.request())
    assert jobs.measured == 2
    assert (second.outcome()["scores_reused"], third.outcome()["scores_reused"]) == (False, True)
    assert alike(measured, again)


def test_dense_evaluation_is_reused(jobs: ScoringJobs) -> None:
    first, task_model = jobs.cache(jobs.request())
    given = first.answer(task_model)
    again, task_model = jobs.cache(jobs.request(target={"ratio": 0.6}, method={"criterion": "wanda"}))
    taken = again.answer(task_model)
    assert (first.outcome()["evaluation_reused"], again.outcome()["evaluation_reused"]) == (False, True)
    assert torch.equal(taken.scores.score_EL, given.scores.score_EL)
    assert torch.equal(taken.scores.answer_E, given.scores.answer_E)


def test_only_missing_evaluations_are_measured(jobs: ScoringJobs) -> None:
    first, task_model = jobs.cache(jobs.request())
    first.answer(task_model)
    second, task_model = jobs.cache(jobs.request())
    _, other = jobs.cache(jobs.request(task={"evaluation": {"uri": jobs.rows(name="other", first="bad")}}))
    found = second.answer_all({"stored": task_model, "other": other})
    assert list(second.evaluations.values()) == [True, False]
    assert not second.outcome()["evaluation_reused"]
    assert {key: len(answers.label_E) for key, answers in found.items()} == {"stored": 4, "other": 16}


def test_answers_for_pseudo_labels_are_reused(jobs: ScoringJobs) -> None:
    request = jobs.request(task={"supervision": "none", "special_tokens": False})
    answers = []
    for _ in range(2):
        cache, task_model = jobs.cache(request)
        unanswered = replace(task_model, calibration=replace(task_model.calibration, answered=False))
        unlabelled = EvaluationSet(Role.task, "reviews", [], unanswered)
        [labelled] = pseudo_labels.label(cache.context, [unlabelled], cache.answer)
        answers.append([example.answer for example in labelled.task_model.calibration.examples])
    assert answers[0] == answers[1]
    assert list(cache.evaluations.values()) == [True]


def test_cache_without_a_store_measures_everything(jobs: ScoringJobs) -> None:
    cache, task_model = jobs.cache(jobs.request())
    cache.store = None
    path = cache.path(task_model, (0.0,), lambda: attribute(cache.context, task_model, (0.0,)))
    assert path.ratios == (0.0,)
    assert cache.outcome() == {"scores": None, "task_scores": {}, "scores_reused": False, "evaluation_reused": False}
    assert jobs.store.page("default") == ([], None)


def test_plan_of_inline_rows_finds_the_scores_of_a_job(jobs: ScoringJobs) -> None:
    rows = [{"text": word, "label": index % 2} for index, word in enumerate(WORDS)]
    inline = jobs.request(task={"calibration": {"rows": rows}})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    jobs.storage.put_bytes(lines.encode(), dataset_key("default", "kept"))
    kept = jobs.request(task={"calibration": {"uri": "dataset://kept"}})
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    assert fingerprints(inline, access).units == fingerprints(kept, access).units
    assert not jobs.store.serves("default", fingerprints(inline, access).units)
    cache, _ = jobs.path(kept)
    assert jobs.store.serves("default", fingerprints(inline, access).units)
    [digest] = cache.paths
    jobs.store.delete("default", digest)
    assert not jobs.store.serves("default", fingerprints(inline, access).units)


def test_plan_of_a_union_needs_the_scores_of_every_task(jobs: ScoringJobs) -> None:
    labelled = {"template": "{text}:", "labels": LABELS}
    tasks = [
        labelled | {"name": name, "calibration": {"uri": jobs.rows(name=name, first=first)}}
        for name, first in (("reviews", "good"), ("mails", "bad"))
    ]
    request = jobs.request(task=None)
    union = JobRequest.model_validate(request.model_dump(exclude_unset=True, exclude={"task"}) | {"tasks": tasks})
    cache, task_model = jobs.cache(union)
    other = JobRequest.model_validate(request.model_dump(exclude_unset=True) | {"task": tasks[1]})
    _, partner = jobs.cache(other)
    units = fingerprints(union, access_of(ANONYMOUS, jobs.settings, jobs.storage)).units
    for each in (task_model, partner):
        assert not jobs.store.serves("default", units)
        cache.path(each, (0.0,), partial(attribute, cache.context, each, (0.0,)))
    assert jobs.store.serves("default", units)
    named = cache.outcome()["task_scores"]
    assert list(named) == ["reviews", "mails"]
    assert list(named.values()) == list(cache.paths)
    jobs.store.delete("default", named["reviews"])
    assert not jobs.store.serves("default", units)


def test_plan_finds_the_dense_evaluation_of_a_job(jobs: ScoringJobs) -> None:
    other_rows = jobs.request(task={"evaluation": {"uri": jobs.rows(name="other", first="bad")}})
    observing = jobs.request(observe=[{"preset": "sst2", "evaluation": {"uri": jobs.rows(name="other")}}])
    smaller, request = jobs.request(target={"ratio": 0.5}), jobs.request()
    access = access_of(ANONYMOUS, jobs.settings, jobs.storage)
    cache, task_model = jobs.cache(request)
    cache.answer(task_model)
    cache.path(task_model, (0.0,), partial(attribute, cache.context, task_model, (0.0,)))
    assert jobs.store.serves("default", fingerprints(smaller, access).rows)
    assert not jobs.store.serves("default", fingerprints(other_rows, access).rows)
    assert not jobs.store.serves("default", fingerprints(observing, access).rows)
