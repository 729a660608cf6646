"""Adapters of a dense model that are cut to the slim one: the same weights as cutting the merged model gives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from service.contract.errors import InvalidModel, InvalidRequest
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import TINY
from worker.checkpoints.adapters import rebasing
from worker.checkpoints.adapters.rebasing import dense_skeleton, rebase
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.kept_indices import read_kept
from worker.checkpoints.loading import load_model

EXACT: dict[str, Any] = {"repair": "none", "scope": "global"}
# Family -> the modules of its adapter, and the cut.
CUTS: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "llama": (["q_proj", "k_proj", "o_proj", "down_proj", "up_proj"], {"units": ["ffn", "heads"]}, {"round_to": 1}),
    "phi3": (["qkv_proj", "gate_up_proj", "down_proj"], {"units": ["ffn"]}, {"round_to": 8}),
    "gpt2": (["c_fc", "c_proj"], {"units": ["ffn"]}, {"round_to": 8}),
    "t5": (["q", "v", "o", "wi", "wo"], {"units": ["ffn", "heads"]}, {"round_to": 1}),
}
OWN_WIDTHS = {"round_to": 1, "layout": "per_layer"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path_factory.mktemp("rebased"))


def write_adapter(directory: Path, family: str, modules: list[str], **options: Any) -> Path:
    """A random LoRA adapter of a tiny model."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=modules, init_lora_weights=False, **options)
    get_peft_model(TINY[family](), config).save_pretrained(str(directory))
    return directory


def files_of_job(deployment: Deployment, family: str, **fields: Any) -> Path:
    deployment.run(deployment.request(family, **fields))
    directory = deployment.root / deployment.job.id
    deployment.download(directory)
    return directory


def with_adapter(model: nn.Module, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights of a model with the adapter merged."""
    merged: nn.Module = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return merged.state_dict()


@pytest.mark.parametrize("layout", ["uniform", "per_layer"])
@pytest.mark.parametrize("family", CUTS)
def test_cut_adapter_gives_the_weights_of_the_cut_merged_model(
    deployment: Deployment, tmp_path: Path, family: str, layout: str
) -> None:
    modules, method, output = CUTS[family]
    if layout == "per_layer":
        output = OWN_WIDTHS
    files = files_of_job(deployment, family, method=EXACT | method, output=output, target={"ratio": 0.4})
    dense = deployment.root / family
    adapter = write_adapter(tmp_path / "adapter", family, modules, fan_in_fan_out=family == "gpt2")
    kept, origin = read_kept(files / "kept.safetensors")
    rebase(adapter, kept, dense_skeleton(origin.model), tmp_path / "cut")
    cut_first = with_adapter(load_model(files / "model", device=torch.device("cpu")).model, tmp_path / "cut")
    merged_first = load_model(dense, device=torch.device("cpu"), adapter=adapter)
    expected = make_slim(merged_first, kept, origin.layout).model.state_dict()
    assert expected.keys() == cut_first.keys()
    before = load_file(files / "model/model.safetensors")
    assert any(not torch.allclose(cut_first[name], tensor) for name, tensor in before.items() if name in cut_first)
    for name, tensor in expected.items():
        difference = (cut_first[name] - tensor).abs().max().item()
        assert difference <= 1e-5 * (1 + tensor.abs().max().item()), (name, difference)


def test_adapter_of_removed_layers_is_dropped_and_the_others_are_renumbered(
    deployment: Deployment, tmp_path: Path
) -> None:
    files = files_of_job(
        deployment, "llama", method=EXACT | {"units": ["layers"], "criterion": "block_influence"}, target={"ratio": 0.5}
    )
    adapter = write_adapter(tmp_path / "adapter", "llama", ["q_proj", "down_proj"])
    kept, origin = read_kept(files / "kept.safetensors")
    [stays] = [site.layer for site, kept_K in kept.items() if kept_K.numel()]
    rebase(adapter, kept, dense_skeleton(origin.model), tmp_path / "cut")
    old, new = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "cut"))
    assert len(new) == len(old) / 2
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name.replace(".layers.0.", f".layers.{stays}.")])
    numbered = json.loads((adapter / "adapter_config.json").read_text()) | {"layers_to_transform": [1]}
    (adapter / "adapter_config.json").write_text(json.dumps(numbered))
    with pytest.raises(InvalidModel, match="layers_to_transform"):
        rebase(adapter, kept, dense_skeleton(origin.model), tmp_path / "again")


@pytest.fixture(scope="module")
def files(deployment: Deployment) -> Path:
    return files_of_job(deployment, "llama", method={"repair": "none"})


@pytest.mark.slow
def test_command_reads_the_config_of_the_dense_model(deployment: Deployment, files: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "llama", ["down_proj"])
    command = [sys.executable, "-m", "service.cli", "rebase-adapter", str(adapter), str(files), str(tmp_path / "cut")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    [width] = {
        tensor.shape[1]
        for name, tensor in load_file(tmp_path / "cut/adapter_model.safetensors").items()
        if "_A" in name
    }
    assert width == json.loads((files / "model/config.json").read_text())["intermediate_size"]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, "is not empty" in again.stderr) == (1, True)
    with_repair = files_of_job(deployment, "llama")
    run = subprocess.run(
        [*command[:-2], str(with_repair), str(tmp_path / "other")], capture_output=True, text=True, check=False
    )
    assert (run.returncode, "evaluate it" in run.stderr) == (0, True)


@pytest.mark.parametrize(
    ("family", "modules", "options", "reason"),
    [
        ("llama", ["down_proj"], {"use_dora": True}, "DoRA"),
        ("t5", ["wo"], {}, "none of the model's"),
    ],
)
def test_adapter_that_cannot_be_cut_is_refused(
    files: Path, tmp_path: Path, family: str, modules: list[str], options: dict[str, Any], reason: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", family, modules, **options)
    kept, origin = read_kept(files / "kept.safetensors")
    with pytest.raises(InvalidModel, match=reason):
        rebase(adapter, kept, dense_skeleton(origin.model), tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_merged_adapter_and_foreign_base_models_are_refused(deployment: Deployment, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "llama", ["down_proj"])
    model = {"uri": deployment.request().model.uri, "adapter_uri": adapter.as_uri()}
    files = files_of_job(deployment, "llama", model=model, method={"repair": "none"})
    with pytest.raises(InvalidRequest, match="merged this adapter already"):
        rebasing._run(adapter, files / "kept.safetensors", tmp_path / "cut", None)
