import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contract.errors import VerificationFailed
from tests.support import checkpoints
from tests.support.tiny_models import TINY, inputs_of
from worker.checkpoints.verification import compare, verify, write_probe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint, next to the probe of the model that it was saved from."""
    model = checkpoints.write(tmp_path / "model")
    write_probe(model, inputs_of(model), tmp_path / "probe.safetensors")
    return tmp_path / "model"


@pytest.fixture
def probe(checkpoint: Path) -> Path:
    return checkpoint.parent / "probe.safetensors"


def change(checkpoint: Path, key: str, factor: float | None) -> None:
    """Scale a tensor of the file, or remove it."""
    tensors = load_file(checkpoint / "model.safetensors")
    if factor is None:
        del tensors[key]
    else:
        tensors[key] = tensors[key] * factor
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def test_a_written_checkpoint_is_verified_in_a_fresh_process(checkpoint: Path, probe: Path) -> None:
    waited: list[None] = []
    verified = verify(checkpoint, probe, while_waiting=lambda: waited.append(None))
    assert verified.loader == "LlamaForCausalLM"
    assert verified.dtype == "float32"
    assert verified.max_abs_logit_difference <= verified.tolerance
    assert waited


def test_a_checkpoint_that_does_not_load_fails_with_the_reason(checkpoint: Path, probe: Path) -> None:
    change(checkpoint, "model.layers.0.mlp.up_proj.weight", None)
    with pytest.raises(VerificationFailed, match="missing_keys"):
        verify(checkpoint, probe)


def test_an_error_while_waiting_kills_the_process(
    checkpoint: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Any, **options: Any) -> "subprocess.Popen[str]":
        started.append(popen(*arguments, **options))
        return started[-1]

    def cancel() -> None:
        raise InterruptedError

    popen = subprocess.Popen
    monkeypatch.setattr("worker.checkpoints.verification.subprocess.Popen", start)
    with pytest.raises(InterruptedError):
        verify(checkpoint, probe, while_waiting=cancel)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_reloaded_by_its_stock_class(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    model = checkpoints.write(tmp_path / "model", name)
    write_probe(model, inputs_of(model), tmp_path / "probe.safetensors")
    verified = compare(tmp_path / "model", tmp_path / "probe.safetensors")
    assert verified.loader == type(model).__name__
    assert verified.max_abs_logit_difference <= verified.tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_change_of_one_matrix_exceeds_the_tolerance(tmp_path: Path, dtype: torch.dtype) -> None:
    model = checkpoints.write(tmp_path / "model", dtype=dtype)
    write_probe(model, inputs_of(model), tmp_path / "probe.safetensors")
    assert compare(tmp_path / "model", tmp_path / "probe.safetensors").max_abs_logit_difference == 0
    change(tmp_path / "model", "model.layers.0.mlp.down_proj.weight", 1.05)
    changed = compare(tmp_path / "model", tmp_path / "probe.safetensors")
    assert changed.max_abs_logit_difference > changed.tolerance


def test_unexpected_weights_and_infinite_logits_are_refused(checkpoint: Path, probe: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"model.extra.weight": torch.ones(2)}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="unexpected_keys"):
        compare(checkpoint, probe)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    change(checkpoint, "model.norm.weight", float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        compare(checkpoint, probe)


def test_weights_of_another_width_than_the_config_are_refused(checkpoint: Path, probe: Path) -> None:
    checkpoints.change_config(checkpoint, intermediate_size=40)
    with pytest.raises(RuntimeError, match="mismatch"):
        compare(checkpoint, probe)
