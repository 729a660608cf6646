"""Jobs on quantised models: the slim checkpoint is an ordinary one, and the report says what the weights were."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from service.contract.answers.report import Report
from service.contract.request.task import ModelSource
from tests.support.pipeline_jobs import Deployment
from tests.support.quantised_models.formats import FORMATS
from tests.support.quantised_models.stored import write
from worker.checkpoints.kept_indices import apply_kept
from worker.checkpoints.loading import count_parameters
from worker.data.provenance import digest_directory
from worker.sources.fetching import fetch_model

# One format of each method; tests/worker/sources/test_dequantisation.py has the others.
METHODS = ("fp8 blocks", "packed 4 bits in groups", "llm.int8", "nf4 nested", "gptq reordered", "awq")
KEPT: dict[str, Any] = {"method": {"repair": "none"}, "output": {"round_to": 8, "formats": ["safetensors", "indices"]}}


@pytest.mark.parametrize("name", METHODS)
def test_a_slim_checkpoint_of_a_quantised_model_is_an_ordinary_one(deployment: Deployment, name: str) -> None:
    model = deployment.root / "llama"
    expected = write(model, FORMATS[name])
    result = deployment.run(deployment.request(**KEPT))
    files = deployment.root / "files"
    deployment.download(files)
    config = json.loads((files / "model/config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    with safe_open(files / "model/model.safetensors", framework="pt") as file:
        assert {file.get_slice(each).get_dtype() for each in file.keys()} == {"BF16"}  # noqa: SIM118
    slim = AutoModelForCausalLM.from_pretrained(files / "model", dtype=torch.float32)
    kept = load_kept(files / "kept.safetensors")["decoder.0.ffn"].long()
    assert torch.equal(slim.model.layers[0].mlp.up_proj.weight, expected.model.layers[0].mlp.up_proj.weight[kept])
    assert result.parameters.dense == count_parameters(expected)
    assert result.bytes.dense == (model / "model.safetensors").stat().st_size
    report = Report.model_validate_json((files / "report.json").read_text())
    assert report.dequantised is not None
    assert (report.dequantised.format, report.dequantised.dtype) == (FORMATS[name].name, "bfloat16")
    assert report.stored_dtype == "bfloat16"
    assert report.digests["model"] == digest_directory(model)
    [message] = [warning.message for warning in report.warnings if warning.code == "dequantised"]
    assert f"quantised ({FORMATS[name].name}" in message
    assert f"(quantised as {FORMATS[name].name}, dequantised to bfloat16)" in (files / "model/README.md").read_text()
    assert f"{FORMATS[name].name}, dequantised to bfloat16" in (files / "report.html").read_text()
    again = deployment.root / "again"
    base = fetch_model(ModelSource(uri=model.as_uri()), scratch=deployment.root / "apply", cache=deployment.root)
    apply_kept(files / "kept.safetensors", base, None, again)
    assert (again / "model.safetensors").read_bytes() == (files / "model/model.safetensors").read_bytes()


def load_kept(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
