"""The parts that shards store give the scores and the answers of one pass over all rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from service.contract.answers.job import Stage
from service.jobs.record import JobRecord, new_record
from service.settings import Settings
from service.storage.keys import attempt_prefix, shards_prefix
from tests.support.pipeline_jobs import Deployment, Recorder
from tests.support.prepared_jobs import PreparedJob, prepare
from tests.support.quick_verification import verifying_here
from worker import pipeline
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.evaluation.evaluation_sets import EvaluationSet, Role
from worker.stages.evaluation.measurements import RowsKey, labelled, to_answer
from worker.stages.scores.attribution import attribute, step_ratios
from worker.stages.shards.parts import Parts
from worker.stages.task_model import answer_all, with_examples

SHARDS = 3
GENERATION: dict[str, Any] = {"kind": "generation", "labels": None}


def settings(deployment: Deployment, tokens_per_batch: int = 64) -> Settings:
    return Settings(state=deployment.root, device="cpu", tokens_per_batch=tokens_per_batch)


def run_shards(deployment: Deployment, job: JobRecord, **options: int) -> None:
    for number in range(SHARDS):
        scratch = deployment.root / "scratch" / f"{job.id}-{number}"
        scratch.mkdir(parents=True)
        progress = Recorder()
        pipeline.run_shard(
            job,
            number,
            settings=settings(deployment, **options),
            storage=deployment.storage,
            progress=progress,
            scratch=scratch,
        )
        assert progress.stages == [Stage.fetch, Stage.load, Stage.evaluate_dense, Stage.attribute]


def measured(
    deployment: Deployment, family: str = "llama", task: dict[str, Any] | None = None, **method: Any
) -> tuple[PreparedJob, Parts]:
    """A job whose shards have ended, before its last job."""
    job = new_record(deployment.request(family, task, method={"shards": SHARDS} | method))
    run_shards(deployment, job)
    prepared = prepare(job, deployment.root, settings(deployment), deployment.storage, Recorder())
    prepared.context.progress.stage(Stage.attribute)
    return prepared, Parts(prepared.context, prepared.sources.digests)


def assert_alike(found: ScorePath, expected: ScorePath) -> None:
    for site, score_U in expected.scores[0].items():
        torch.testing.assert_close(found.scores[0][site], score_U, rtol=1e-3, atol=float(score_U.abs().max()) * 1e-5)
    assert (found.moments is None) == (expected.moments is None)
    for path, moments in (expected.moments or {}).items():
        assert found.moments is not None
        for mine, yours in zip(found.moments[path].weights_N, moments.weights_N, strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", {"criterion": "attribution", "repair": "none"}),
        ("llama", {"criterion": "surgeon"}),
        ("gpt2", {"criterion": "surgeon"}),
        ("t5", {"criterion": "surgeon"}),
        ("llama", {"criterion": "gisp", "repair": "none"}),
    ],
    ids=["attribution", "surgeon", "surgeon with biases", "surgeon of two stacks", "gradients of weights"],
)
def test_scores_are_those_of_one_pass(deployment: Deployment, family: str, method: dict[str, Any]) -> None:
    prepared, parts = measured(deployment, family, **method)
    context, task_model = prepared.context, prepared.task_model
    ratios = step_ratios(context.job.request)
    measure = parts.measure_of(task_model)
    assert measure is not None
    found = attribute(context, task_model, ratios, measured=measure)
    assert_alike(found, attribute(context, task_model, ratios))


@pytest.mark.parametrize("task", [{}, GENERATION], ids=["labels", "texts"])
def test_answers_are_those_of_one_pass(deployment: Deployment, task: dict[str, Any]) -> None:
    prepared, parts = measured(deployment, task=task, repair="none", criterion="attribution")
    own = EvaluationSet(Role.task, "own", [], prepared.task_model)
    models = to_answer([own], labelled([own]))
    assert all(parts.has_answers(number, model) for number in range(SHARDS) for model in models.values())
    found, expected = parts.answer_all(models), answer_all(prepared.context, models)
    assert (
        found.keys() == expected.keys() == {RowsKey(own.key, False)} | ({RowsKey(own.key, True)} if not task else set())
    )
    for key, answers in expected.items():
        torch.testing.assert_close(found[key].scores.score_EL, answers.scores.score_EL, rtol=1e-4, atol=1e-5)
        assert torch.equal(found[key].scores.answer_E, answers.scores.answer_E)
        assert found[key].texts == answers.texts


def test_last_job_measures_itself_what_no_shard_has(deployment: Deployment) -> None:
    prepared, parts = measured(deployment, repair="none", criterion="attribution")
    task_model = prepared.task_model
    other = replace(
        task_model,
        calibration=with_examples(
            prepared.context, task_model, task_model.calibration, task_model.calibration.examples[1:]
        ),
        evaluation=with_examples(
            prepared.context, task_model, task_model.evaluation, task_model.evaluation.examples[1:]
        ),
    )
    assert parts.measure_of(other) is None
    assert parts.answer_all({"other": other})["other"].scores.num_rows == len(other.evaluation.examples)
    gone = next(
        key for key, _ in deployment.storage.list(shards_prefix("default", prepared.context.job.id)) if "sums" in key
    )
    deployment.storage.delete(gone)
    assert parts.measure_of(task_model) is None


def test_shard_that_runs_again_keeps_what_it_has_measured(deployment: Deployment) -> None:
    job = new_record(deployment.request(method={"shards": SHARDS}))
    run_shards(deployment, job)
    prefix = shards_prefix("default", job.id)
    files = {key: deployment.storage.stat(key).etag for key, _ in deployment.storage.list(prefix)}
    gone = next(key for key in files if "/1/sums" in key)
    deployment.storage.delete(gone)
    scratch = deployment.root / "again"
    scratch.mkdir()
    progress = Recorder()
    pipeline.run_shard(
        job, 0, settings=settings(deployment), storage=deployment.storage, progress=progress, scratch=scratch
    )
    assert {stage for stage, *_ in progress.advances} <= {Stage.fetch, Stage.load}
    assert {key: deployment.storage.stat(key).etag for key in files if key != gone} == {
        key: etag for key, etag in files.items() if key != gone
    }


def test_job_of_shards_keeps_the_units_of_a_plain_job(deployment: Deployment) -> None:
    plain, job = (new_record(deployment.request(method={"shards": count})) for count in (1, SHARDS))
    run_shards(deployment, job)
    kept, metrics, widths = [], [], []
    for record in (plain, job):
        record = record.model_copy(update={"attempt": 1})
        scratch: Path = deployment.root / "scratch" / record.id
        scratch.mkdir(parents=True)
        progress = Recorder()
        with verifying_here():
            result = pipeline.run(
                record, settings=settings(deployment), storage=deployment.storage, progress=progress, scratch=scratch
            )
        passes = {stage for stage, *_ in progress.advances if stage in (Stage.evaluate_dense, Stage.attribute)}
        assert bool(passes) == (record is not job and record.id == plain.id)
        metrics.append([result.metrics.dense.log_likelihood, result.metrics.slim.log_likelihood])
        widths.append(result.widths)
        kept.append(load(deployment.storage.get_bytes(attempt_prefix("default", record.id, 1) + "kept.safetensors")))
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert widths[0] == widths[1]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
