"""Jobs with a recovery, on tiny models: what they store, measure and report, for every kind of task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import InvalidRequest, TargetUnreachable
from service.reports.html import render
from service.storage.artifact_names import MODEL, UNTRAINED
from tests.support import checkpoints
from tests.support.embedded_pairs import TASK as EMBEDDING
from tests.support.embedded_pairs import pairs
from tests.support.pipeline_jobs import Deployment, Recorder, write_rows
from tests.support.recoveries import FAST
from tests.support.searches import run_job
from tests.support.tiny_models import WITH_HEAD, WITH_TOKEN_HEAD, encoder
from tests.worker.jobs.test_multi_label import PROBLEM, labelled
from tests.worker.jobs.test_multi_label import TASK as MULTI_LABEL
from tests.worker.jobs.test_regression import TASK as REGRESSION
from tests.worker.jobs.test_regression import numbered
from tests.worker.jobs.test_token_classification import KIND as TAGS
from tests.worker.jobs.test_token_classification import tagged_rows
from worker.checkpoints.kept_indices import apply_kept, read_kept
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.repair.repairs import repair
from worker.sources.fetching import FetchedModel
from worker.stages import slim

WEIGHTS = "model.safetensors"
SLOW = FAST | {"learning_rate": 1e-3, "epochs": 6}
# Leaves something to recover, also of a random model.
UNREPAIRED: dict[str, Any] = {"method": {"repair": "none"}, "target": {"ratio": 0.8}}


def downloaded(deployment: Deployment) -> tuple[Path, Report]:
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    return directory, Report.model_validate_json((directory / "report.json").read_bytes())


def recovered(deployment: Deployment, family: str = "llama", **fields: Any) -> Result:
    return deployment.run(deployment.request(family, **{"recovery": FAST} | fields))


def test_job_stores_the_trained_model_and_the_one_before(deployment: Deployment) -> None:
    progress = Recorder()
    request = deployment.request(recovery=FAST, method={"repair": "none"})
    result = deployment.run(request, progress)
    found, plain = result.recovery, Deployment(deployment.root / "plain")
    plain.root.mkdir()
    assert found is not None
    assert found.best_step > 0
    assert found.losses[0].step == 0
    assert [point.step for point in found.losses] == list(range(found.steps + 1))
    assert min(point.held_out for point in found.losses) < found.losses[0].held_out
    assert found.metrics.dense == result.metrics.dense
    assert found.metrics.recovered == result.metrics.slim
    assert found.metrics.slim.log_likelihood is not None
    assert result.metrics.slim.log_likelihood is not None
    assert result.metrics.slim.log_likelihood > found.metrics.slim.log_likelihood
    assert (found.train_rows, found.held_out_rows) == (19, 5)
    assert found.lora_parameters > 0 < found.tokens
    assert found.merge_difference < 1e-5
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance
    assert found.verified.max_abs_logit_difference <= found.verified.tolerance
    steps = {(total, unit) for stage, _, total, unit in progress.advances if stage is Stage.recover}
    assert {unit for _, unit in steps} == {"steps", "examples"}
    directory, report = downloaded(deployment)
    assert found.artifact == UNTRAINED
    without = plain.run(request.model_copy(update={"recovery": None}))
    assert without.metrics.slim == found.metrics.slim
    assert without.verified == found.verified
    untrained = load_file(directory / UNTRAINED / WEIGHTS)
    before = load_file(plain.scratch / "output" / MODEL / WEIGHTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in untrained.items())
    trained = AutoModelForCausalLM.from_pretrained(directory / MODEL)
    matrix = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(trained.state_dict()[matrix], before[matrix])
    offsets = {
        name: json.loads((directory / name / "task.json").read_bytes())["tasks"][0]["label_offsets"]
        for name in (MODEL, UNTRAINED)
    }
    assert offsets[MODEL] == result.metrics.slim.label_offsets != offsets[UNTRAINED]
    card = (directory / MODEL / "README.md").read_text()
    assert f"was trained\nfor {found.steps} steps on 19 of these examples" in card
    card_before = (directory / UNTRAINED / "README.md").read_text()
    assert "was trained" not in card_before
    assert f'("{UNTRAINED}"' in card_before
    page = render(report)
    assert "before the training" in page
    assert 'aria-label="Loss by step"' in page


def test_repair_does_not_see_the_held_out_rows(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def record(whole: RepairInput, kind: str) -> None:
        seen.append([batch.num_examples for batch in whole.calibration.batches])
        repair(whole, kind)

    monkeypatch.setattr(slim, "repair", record)
    result = recovered(deployment, recovery=FAST | {"steps": 1})
    assert result.recovery is not None
    assert [sum(counts) for counts in seen] == [result.recovery.train_rows] == [19]
    _, report = downloaded(deployment)
    assert report.calibration_examples == 24


def test_indices_make_the_model_before_the_training_alone(deployment: Deployment) -> None:
    recovered(deployment, method={"repair": "none"})
    directory, _ = downloaded(deployment)
    base = FetchedModel(deployment.root / "llama", deployment.root / "llama", None)
    apply_kept(directory / "kept-untrained.safetensors", base, None, deployment.root / "applied")
    assert read_kept(directory / "kept.safetensors")[1].recovery == "lora"
    with pytest.raises(InvalidRequest, match="recovery lora"):
        apply_kept(directory / "kept.safetensors", base, None, deployment.root / "other")


def test_a_trained_model_is_slimmed_again(deployment: Deployment) -> None:
    result = recovered(deployment)
    directory, _ = downloaded(deployment)
    (directory / MODEL).rename(deployment.root / "again")
    again = deployment.run(deployment.request("again"))
    assert again.parameters.dense == result.parameters.slim > again.parameters.slim
    assert again.recovery is None


HEADS: dict[str, tuple[dict[str, Any], Callable[[], Any], list[dict[str, Any]]]] = {
    "multi_label": (MULTI_LABEL, lambda: WITH_HEAD["bert"](num_labels=3, problem_type=PROBLEM), labelled(24)),
    "token_classification": (TAGS, lambda: WITH_TOKEN_HEAD["bert"](), tagged_rows(24)),
    "regression": (REGRESSION, lambda: WITH_HEAD["bert"](num_labels=1), numbered(24)),
    "embedding": (EMBEDDING, lambda: encoder("bert"), pairs(24)),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("method", ["lora", "distillation"])
def test_every_kind_of_task_of_a_head_is_recovered(kind: str, method: str, deployment: Deployment) -> None:
    task, make, rows = HEADS[kind]
    checkpoints.save(deployment.root / "bert", make())
    sources = {
        name: {"uri": write_rows(deployment.root / f"{name}.jsonl", part)}
        for name, part in (("calibration", rows), ("evaluation", rows[:12]))
    }
    request = deployment.request(
        "bert",
        task=task | sources,
        recovery=FAST | {"method": method, "learning_rate": 0.01, "epochs": 3},
        **UNREPAIRED,
    )
    if (kind, method) == ("embedding", "lora"):
        with pytest.raises(InvalidRequest, match="no right answers"):
            deployment.run(request)
        return
    found = deployment.run(request).recovery
    assert found is not None
    assert min(point.held_out for point in found.losses) < found.losses[0].held_out


@pytest.mark.parametrize("method", ["lora", "distillation"])
@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_rows_without_labels_are_recovered(kind: str, method: str, deployment: Deployment) -> None:
    task: dict[str, Any] = {"supervision": "none"} | ({"kind": kind, "labels": None} if kind == "generation" else {})
    result = recovered(deployment, task=task, recovery=SLOW | {"method": method}, **UNREPAIRED)
    assert result.recovery is not None
    assert result.recovery.label_weight == (1.0 if method == "lora" else 0.0)
    assert min(point.held_out for point in result.recovery.losses) < result.recovery.losses[0].held_out


def test_tasks_of_a_union_are_trained_together(deployment: Deployment) -> None:
    other = {"template": "Answer {text}:", "labels": {"1": " dog", "0": " fox"}, "name": "animals"}
    task = {"template": "{text}:", "labels": {"1": "positive", "0": "negative"}, "name": "tone"}
    sources = {"calibration": {"uri": deployment.rows(30)}}
    request = deployment.request(recovery=FAST | {"method": "distillation", "epochs": 4})
    united = request.model_validate(
        request.model_dump(exclude={"task"}, exclude_unset=True) | {"tasks": [task | sources, other | sources]}
    )
    result = deployment.run(united)
    assert result.recovery is not None
    assert (result.recovery.train_rows, result.recovery.held_out_rows) == (38, 10)
    assert result.metrics.tasks.keys() == {"tone", "animals"}
    assert result.recovery.metrics.recovered == result.metrics.slim
    directory, _ = downloaded(deployment)
    for name in (MODEL, UNTRAINED):
        shipped = json.loads((directory / name / "task.json").read_bytes())["tasks"]
        assert [each["name"] for each in shipped] == ["tone", "animals"]


@pytest.mark.parametrize("stage_end", ["steps", "examples"])
def test_progress_that_raises_ends_the_attempt_in_the_stage(stage_end: str, deployment: Deployment) -> None:
    class Ending(Recorder):
        def advance(self, done: int, total: int, unit: str) -> None:
            super().advance(done, total, unit)
            if self.stages[-1] is Stage.recover and unit == stage_end:
                raise InterruptedError

    progress = Ending()
    with pytest.raises(InterruptedError):
        deployment.run(deployment.request(recovery=FAST), progress)
    assert progress.stages[-1] is Stage.recover


LIKELY = {"kind": "generation", "labels": None, "metric": "token_probability"}
FLOOR: dict[str, Any] = {"target": {"keep_metric": 1.0}, "output": {"round_to": 1}}


def test_smallest_model_of_a_floor_is_found_after_its_recovery(tmp_path: Path) -> None:
    """Without training no smaller model holds this floor."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "trained").mkdir()
    with pytest.raises(TargetUnreachable):
        floor_job(tmp_path / "plain")
    trained = floor_job(tmp_path / "trained", recovery=FAST | {"epochs": 6})
    found = trained.recovery
    assert found is not None
    assert trained.kept_metric is not None
    assert trained.metrics.slim == found.metrics.recovered
    assert trained.kept_metric.reported.value == pytest.approx(
        trained.metrics.slim.value.value / trained.metrics.dense.value.value
    )
    assert found.metrics.recovered.value.value > found.metrics.slim.value.value


def floor_job(root: Path, **fields: Any) -> Result:
    torch.set_num_threads(1)
    deployment = Deployment(root)
    task = LIKELY | {"evaluation": {"uri": deployment.rows(80, "evaluation")}}
    return deployment.run(deployment.request(**FLOOR | {"task": task} | fields))


def test_a_latency_target_trains_the_model_that_it_finds(tmp_path: Path) -> None:
    progress = Recorder()
    result, _ = run_job(tmp_path, progress, recovery=FAST | {"epochs": 2}, target={"latency_ms": 10_000.0})
    assert result.recovery is not None
    assert result.recovery.steps > 0
    units = {unit for stage, _, _, unit in progress.advances if stage is Stage.recover}
    assert units == {"steps", "examples"}


def test_no_model_of_a_floor_is_reported_with_the_curve(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    task = {"evaluation": {"uri": deployment.rows(8, "evaluation")}}
    fields: dict[str, Any] = {"target": {"keep_metric": 1.0}, "recovery": FAST | {"steps": 1}}
    with pytest.raises(TargetUnreachable) as refused:
        deployment.run(deployment.request(task=task, **fields))
    assert refused.value.curve
