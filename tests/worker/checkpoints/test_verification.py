import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contract.errors import VerificationFailed
from service.contract.options import Layout
from tests.support import checkpoints
from tests.support.processes import wait_for_child
from tests.support.tiny_models import inputs_of
from tests.support.waiting import wait_until
from worker.checkpoints import dtypes
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import LoadedModel, load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import MODULE, Probe, compare, start, take_probe, verify
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import Rules, select
from worker.slimming.units.locating import locate


def whole_probe(directory: Path) -> Probe:
    """The probe of the model in a directory, with all its units."""
    loaded = load_model(directory, device=torch.device("cpu"))
    return take_probe(loaded, {}, inputs_of(loaded.model))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint, next to the probe of the model that it was saved from."""
    checkpoints.write(tmp_path / "model")
    whole_probe(tmp_path / "model").write(tmp_path / "probe.safetensors")
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
    with start() as process:
        verified = verify(checkpoint, probe, while_waiting=lambda: waited.append(None), started=process)
    assert verified.loader == "LlamaForCausalLM"
    assert verified.dtype == "float32"
    assert verified.max_abs_logit_difference <= verified.tolerance
    assert waited


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_fails_with_the_reason(checkpoint: Path, probe: Path) -> None:
    """In a new process, because the one that was started has died."""
    change(checkpoint, "model.layers.0.mlp.up_proj.weight", None)
    with start() as dead:
        wait_for_child(psutil.Process(), lambda command: MODULE in command).kill()
        wait_until(lambda: not dead.is_alive)
        with pytest.raises(VerificationFailed, match="missing_keys"):
            verify(checkpoint, probe, started=dead)


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
    monkeypatch.setattr("worker.checkpoints.fresh_process.subprocess.Popen", start)
    with pytest.raises(InterruptedError):
        verify(checkpoint, probe, while_waiting=cancel)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_change_of_one_matrix_exceeds_the_tolerance(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.write(tmp_path / "model", dtype=dtype)
    probe = whole_probe(tmp_path / "model")
    assert compare(tmp_path / "model", probe).max_abs_logit_difference == 0
    change(tmp_path / "model", "model.layers.0.mlp.down_proj.weight", 1.01)
    changed = compare(tmp_path / "model", probe)
    assert changed.max_abs_logit_difference > changed.tolerance


def test_unexpected_weights_and_infinite_logits_are_refused(checkpoint: Path, probe: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"model.extra.weight": torch.ones(2)}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="unexpected_keys"):
        compare(checkpoint, Probe.read(probe))
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    change(checkpoint, "model.norm.weight", float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        compare(checkpoint, Probe.read(probe))


def test_weights_of_another_width_than_the_config_are_refused(checkpoint: Path, probe: Path) -> None:
    checkpoints.change_config(checkpoint, intermediate_size=40)
    with pytest.raises(RuntimeError, match="mismatch"):
        compare(checkpoint, Probe.read(probe))


CUTS = [
    ("llama", ["ffn", "heads"], Layout.uniform),  # three heads: written as Mistral
    ("llama", ["ffn", "heads", "layers"], Layout.per_layer),
    ("gemma2", ["layers"], Layout.uniform),
    ("t5", ["ffn", "heads", "head_dims", "layers"], Layout.uniform),
    ("t5_gated", ["ffn"], Layout.per_layer),
    ("gemma4_text", ["ffn"], Layout.per_layer),
    ("bert", ["ffn", "layers"], Layout.uniform),
]


def slim(directory: Path, units: list[str], layout: Layout, seed: int = 0) -> tuple[Probe, LoadedModel]:
    """The probe of the model in a directory, and the model cut to about half of its units."""
    loaded = load_model(directory, device=torch.device("cpu"))
    architecture, draw = ARCHITECTURES[loaded.family.model_type], torch.Generator().manual_seed(seed)
    groups = locate(loaded.model, architecture, units)
    scores = {group.site: torch.rand(group.count, generator=draw) for group in groups}
    rules = Rules(scope="global" if layout is Layout.per_layer else "layer")
    kept = select(scores, groups, 0.4, round_to=4, rules=rules)
    probe = take_probe(loaded, kept, inputs_of(loaded.model))
    return probe, make_slim(loaded, kept, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "units", "layout"), CUTS)
def test_a_written_cut_equals_the_masked_dense_model(
    tmp_path: Path, family: str, units: list[str], layout: Layout, dtype: torch.dtype
) -> None:
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "model", family, dtype)
    probe, cut = slim(tmp_path / "model", units, layout)
    save_model(cut, tmp_path / "slim")
    verified = compare(tmp_path / "slim", probe)
    assert verified.max_abs_logit_difference <= verified.tolerance / 2
    assert verified.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("parameter", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_that_changes_between_the_cut_and_the_file_is_found(tmp_path: Path, parameter: str) -> None:
    checkpoints.write(tmp_path / "model")
    probe, cut = slim(tmp_path / "model", ["ffn"], Layout.uniform)
    cut.model.get_parameter(parameter).data.mul_(1.01)
    save_model(cut, tmp_path / "slim")
    verified = compare(tmp_path / "slim", probe)
    assert verified.max_abs_logit_difference > verified.tolerance


def test_a_probe_leaves_the_weights_in_their_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"))
    before = {name: parameter.data for name, parameter in loaded.model.named_parameters()}
    probe = take_probe(loaded, {}, inputs_of(loaded.model))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert all(parameter.data_ptr() == before[name].data_ptr() for name, parameter in loaded.model.named_parameters())
    in_float32 = checkpoints.write(tmp_path / "again")
    in_float32.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(probe.logits, in_float32(**inputs_of(in_float32)).logits)
