"""The training of LoRA weights: it learns, keeps the best weights, ends when it should, and is deterministic."""

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.answers.result import StoppedBy
from service.contract.request.recovery import Recovery
from tests.support.recoveries import RecoveryJob, recovery_job
from tests.support.tiny_models import TINY
from tests.worker.recovery.test_lora import traces
from worker.data.examples import Example
from worker.recovery import training
from worker.recovery.lora import attached
from worker.recovery.recovered import Recovered
from worker.recovery.rows import SplitRows, TrainingTask, split, steps_of_epoch
from worker.recovery.training import Settings, Training, rate_share, train
from worker.slimming.recovery.losses import LOSSES

DEFAULTS = Recovery()
SETTINGS = Settings(learning_rate=0.01, epochs=6, steps=None, batch_size=8, seconds=600.0, seed=0, tokens_per_batch=512)
GENERATION: dict[str, Any] = {"kind": "generation", "labels": None, "metric": "token_probability"}
HEAD: dict[str, Any] = {"labels": {"0": "LABEL_0", "1": "LABEL_2"}}
PER_LAYER: dict[str, Any] = {
    "method": {"scope": "global", "units": ["ffn", "heads"]},
    "output": {"round_to": 1, "layout": "per_layer"},
}
# The divergence from the dense model is small beside the loss on the right answers, which a few steps lower.
WITH_LABELS = {"method": "distillation", "label_weight": 0.5}
LORA, DISTILLATION = {"method": "lora"}, {"method": "distillation"}
# name -> family, fields of the recovery, highest learning rate, fields of the request
KINDS: dict[str, tuple[str, dict[str, Any], float, dict[str, Any]]] = {
    "decoder": ("llama", LORA, 3e-3, {}),
    "decoder per layer": ("llama", DISTILLATION, 3e-3, PER_LAYER),
    "encoder-decoder": ("t5", WITH_LABELS, 3e-3, {}),
    "encoder-decoder per layer": ("t5", LORA, 3e-3, PER_LAYER),
    "classifier": ("bert", LORA, 1e-2, {}),
    "classifier per layer": ("bert", WITH_LABELS, 1e-2, PER_LAYER | {"method": {"scope": "global"}}),
    "decoder with a head": ("llama_classifier", LORA, 3e-3, {"task": HEAD}),
    "text of a decoder": ("llama", DISTILLATION, 3e-3, {"task": GENERATION}),
    "text of an encoder-decoder": ("t5", LORA, 3e-3, {"task": GENERATION}),
}


@pytest.fixture
def job(tmp_path: Path) -> RecoveryJob:
    return recovery_job(tmp_path)


def losses(found: Recovered) -> list[float]:
    return [point.held_out for point in found.training.losses]


@pytest.mark.parametrize("name", KINDS)
def test_training_lowers_the_loss_on_held_out_rows(name: str, tmp_path: Path) -> None:
    family, method, rate, fields = KINDS[name]
    job = recovery_job(tmp_path, family, method | {"learning_rate": rate}, **fields)
    before = {key: value.clone() for key, value in job.cut.loaded.model.state_dict().items()}
    found = job.recover()
    assert min(losses(found)) < 0.9 * losses(found)[0]
    assert found.training.best_step > 0
    assert type(found.loaded.model) is type(job.cut.loaded.model)
    assert traces(found.loaded.model) == []
    after = found.loaded.model.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[key], before[key]) for key in after)
    assert all(torch.equal(value, before[key]) for key, value in job.cut.loaded.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_rounded_to_the_dtype_of_the_checkpoint(dtype: torch.dtype, job: RecoveryJob) -> None:
    cut = replace(job.cut, loaded=replace(job.cut.loaded, dtype=dtype))
    found = RecoveryJob(job.job, cut).recover()
    for tensor in found.loaded.model.parameters():
        assert torch.equal(tensor, tensor.to(dtype).to(tensor.dtype))


def test_best_weights_are_kept(tmp_path: Path) -> None:
    """Its loss, measured anew, is the lowest of the curve, although the last steps have another one."""
    job = recovery_job(tmp_path, recovery={"learning_rate": 0.3})
    found = job.recover()
    best = min(found.training.losses, key=lambda point: point.held_out)
    assert found.training.best_step == best.step
    held_out = job.job.task_model.held_out
    assert held_out is not None
    task = replace(task_of(job), examples=held_out.examples)
    parts = list(task.losses(found.loaded.model, range(len(task.examples)), torch.device("cpu"), 512))
    again = sum(part.total.item() for part in parts) / sum(part.terms for part in parts)
    assert again == pytest.approx(best.held_out, rel=1e-4)


def test_training_that_only_harms_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    job = recovery_job(tmp_path, recovery={"learning_rate": 1.0, "steps": 1})
    found = job.recover()
    assert losses(found)[1] > losses(found)[0]
    assert found.training.best_step == 0
    before = job.cut.loaded.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.loaded.model.state_dict().items())


def test_training_depends_on_the_seed_alone(tmp_path: Path) -> None:
    one, same = (recovery_job(tmp_path / name).recover() for name in ("one", "same"))
    other = recovery_job(tmp_path / "other", method={"seed": 1}).recover()
    assert one.training.losses == same.training.losses != other.training.losses
    tensors = same.loaded.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in one.loaded.model.state_dict().items())


@pytest.mark.parametrize("at", [0, 1, 5])
def test_progress_that_raises_ends_the_training_and_leaves_the_cut_model_whole(at: int, job: RecoveryJob) -> None:
    def end(done: int, total: int) -> None:
        assert 0 <= done <= total
        if done == at:
            raise InterruptedError

    before = {key: value.clone() for key, value in job.cut.loaded.model.state_dict().items()}
    with pytest.raises(InterruptedError):
        job.recover(end)
    assert traces(job.cut.loaded.model) == []
    assert all(torch.equal(value, before[key]) for key, value in job.cut.loaded.model.state_dict().items())


def task_of(job: RecoveryJob) -> TrainingTask:
    dense = job.job.task_model
    assert dense.held_out is not None
    return TrainingTask(
        [*dense.calibration.examples, *dense.held_out.examples], dense.padding, LOSSES["classification"], 1.0, None
    )


def trained(job: RecoveryJob, settings: Settings, clock: Any = lambda: 0.0) -> Training:
    """A training of the tiny model itself."""
    task, model = task_of(job), job.cut.loaded.model
    with attached(model, 2, 0) as lora:
        return train(model, lora, [task], [split(task.examples, None, 0)], settings, lambda done, total: None, clock)


def with_settings(**fields: Any) -> Settings:
    return Settings(**vars(SETTINGS) | fields)


def test_training_ends_with_its_steps_its_time_or_without_progress(job: RecoveryJob) -> None:
    by_epochs = trained(job, SETTINGS)
    assert (by_epochs.stopped_by, by_epochs.steps) == (StoppedBy.steps, 18)  # 3 steps an epoch
    by_steps = trained(job, with_settings(steps=4))
    assert (by_steps.stopped_by, by_steps.steps, by_steps.losses[-1].step) == (StoppedBy.steps, 4, 4)
    ticks = iter(range(10_000))
    by_time = trained(job, with_settings(seconds=12.0), clock=lambda: float(next(ticks)))
    assert by_time.stopped_by is StoppedBy.seconds
    assert 0 < by_time.steps < 18
    assert by_time.losses[-1].step == by_time.steps
    stalled = trained(job, with_settings(learning_rate=1.0, epochs=50))
    assert stalled.stopped_by in (StoppedBy.held_out, StoppedBy.diverged)
    assert stalled.steps < 150


def test_training_whose_loss_is_no_number_ends_with_the_best_weights_before(
    job: RecoveryJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            for each in group["params"]:
                each.data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", poison)
    found = trained(job, SETTINGS)
    assert found.stopped_by is StoppedBy.diverged
    assert found.best_step == 0
    assert all(math.isfinite(point.held_out) for point in found.losses)


def test_learning_rate_rises_and_falls_to_zero_with_the_steps_or_with_the_time() -> None:
    rates = [rate_share(done, 100, 0.0) for done in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] < 0.2
    assert rates[99] == pytest.approx(0.01)
    assert rate_share(50, 100, 0.52) == rates[50]  # hardly behind
    assert rate_share(50, 100, 0.9) == pytest.approx(0.1)
    assert rate_share(50, 100, 1.2) == 0.0


def example(answer: int) -> Example:
    return Example(prompt=(3,), candidates=((4,), (5,)), answer=answer, text="")


def test_split_holds_out_a_stratified_fifth() -> None:
    items = [example(int(row % 4 == 0)) for row in range(100)]
    found = split(items, None, seed=0)
    assert len(found.held_out) == 20
    assert sorted(found.train + found.held_out) == list(range(100))
    assert Counter(items[row].answer for row in found.held_out) == {0: 15, 1: 5}
    assert split(items, None, seed=0) == found != split(items, None, seed=1)
    part = split(items, 40, seed=0)
    assert (len(part.train), len(part.held_out)) == (92, 8)
    assert len(split([example(0)] * 5000, None, seed=0).held_out) == 256


def test_steps_of_an_epoch_are_of_one_task_each_and_have_every_row_once() -> None:
    splits = [SplitRows(list(range(20)), []), SplitRows(list(range(7)), [])]
    steps = steps_of_epoch(splits, 8, random.Random(0))
    for task, rows in enumerate(splits):
        assert sorted(row for step in steps if step.task == task for row in step.rows) == rows.train
    assert sorted(len(step.rows) for step in steps) == [6, 7, 7, 7]
    assert steps != steps_of_epoch(splits, 8, random.Random(1))


def test_batches_of_a_step_add_up_to_the_loss_of_the_whole_step(job: RecoveryJob) -> None:
    task, model, rows = task_of(job), TINY["llama"]().eval(), list(range(10))
    totals = []
    for tokens in (4, 10_000):
        parts = list(task.losses(model, rows, torch.device("cpu"), tokens))
        totals.append(sum(part.total.item() for part in parts))
        assert sum(part.terms for part in parts) == 10
        assert sum(part.tokens for part in parts) == sum(len(task.examples[row].prompt) for row in rows)
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_patience_is_shorter_than_the_longest_default_training() -> None:
    """A training by its defaults can end early."""
    assert training.EVALUATIONS_PER_EPOCH * DEFAULTS.epochs > training.PATIENCE
