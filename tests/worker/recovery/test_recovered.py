"""The recovered model: merged as the LoRA weights beside it compute, and verified by its reloaded checkpoint."""

from pathlib import Path

import pytest
import torch

from service.contract.errors import InvalidModel, VerificationFailed
from tests.support.recoveries import recovery_job
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import Probe, compare
from worker.recovery.lora import Lora


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_reloaded_checkpoint_gives_the_logits_of_the_probe(family: str, tmp_path: Path) -> None:
    job = recovery_job(tmp_path / "job", family, {"steps": 4})
    found = job.recover()
    save_model(found.loaded, tmp_path / "saved")
    found.probe.write(tmp_path / "probe")
    verified = compare(tmp_path / "saved", Probe.read(tmp_path / "probe"))
    assert verified.max_abs_logit_difference <= verified.tolerance
    assert job.cut.probe is not None
    cut = compare_with(tmp_path / "saved", job.cut.probe, tmp_path)
    assert cut > verified.tolerance  # the probe of the cut model would tell them apart
    assert found.merge_difference <= 1e-4 * found.probe.logits.abs().max()


def compare_with(checkpoint: Path, probe: Probe, directory: Path) -> float:
    probe.write(directory / "other")
    return compare(checkpoint, Probe.read(directory / "other")).max_abs_logit_difference


def test_merge_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, merge = recovery_job(tmp_path, recovery={"steps": 2}), Lora.merge

    def merge_twice_as_much(lora: Lora) -> None:
        for each in lora.weights.values():
            each.data *= 2
        merge(lora)

    monkeypatch.setattr(Lora, "merge", merge_twice_as_much)
    with pytest.raises(VerificationFailed, match="merged LoRA weights"):
        job.recover()


def test_cut_model_whose_loss_is_no_number_is_refused(tmp_path: Path) -> None:
    job = recovery_job(tmp_path)
    job.cut.loaded.model.get_parameter("model.norm.weight").data.fill_(torch.nan)
    with pytest.raises(InvalidModel, match="loss of the cut model"):
        job.recover()
