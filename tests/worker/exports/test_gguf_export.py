"""GGUF files of slim models: what they hold, and that wrong files fail the job."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file

from service.contract.answers.report import Report
from service.contract.answers.result import Export
from service.contract.errors import ExportFailed, UnsupportedFormat
from service.contract.options import Format
from tests.support.pipeline_jobs import Deployment
from worker.exports.gguf import tensors as gguf_tensors

ALL_TYPES = {"round_to": 8, "formats": ["safetensors", "gguf"], "gguf_types": ["f32", "f16", "bf16", "q8_0"]}


def exported(root: Path, family: str, **fields: Any) -> tuple[Export, Path]:
    """The export of a job, and the directory of its files."""
    deployment = Deployment(root)
    result = deployment.run(deployment.request(family, **({"output": ALL_TYPES} | fields)))
    deployment.download(root / "files")
    [export] = result.exports
    return export, root / "files"


def test_a_job_writes_a_file_of_each_type(tmp_path: Path) -> None:
    export, files = exported(tmp_path, "llama")
    assert (export.format, export.architecture) == (Format.gguf, "llama")
    assert [file.name.rpartition("-")[2] for file in export.files] == ["F32.gguf", "F16.gguf", "BF16.gguf", "Q8_0.gguf"]
    assert export.bytes == sum((files / file.name).stat().st_size for file in export.files)
    assert export.max_abs_logit_difference <= export.tolerance
    weights = load_file(files / "model/model.safetensors")
    down = weights["model.layers.0.mlp.down_proj.weight"].numpy()
    for file, error in zip(export.files, (0, 1e-3, 1e-2, 1e-2), strict=True):
        [stored] = [each for each in GGUFReader(files / file.name).tensors if each.name == "blk.0.ffn_down.weight"]
        read = dequantize(stored.data, stored.tensor_type)[:, : down.shape[1]]
        assert np.abs(read - down).max() <= error * np.abs(down).max()
    assert json.loads((files / "model-gguf/task.json").read_text()) == json.loads(
        (files / "model/task.json").read_text()
    )


def test_a_file_that_differs_fails_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path)
    monkeypatch.setattr(gguf_tensors, "_turned", lambda tensor, *_: torch.flip(tensor, [0]))
    with pytest.raises(ExportFailed, match="the logits of the GGUF file differ"):
        deployment.run(deployment.request("llama", output=ALL_TYPES))
    assert not list((tmp_path / "artifacts").rglob("*.gguf"))


def test_layers_that_differ_are_written_and_read_back(tmp_path: Path) -> None:
    method = {"units": ["ffn", "heads"], "scope": "global"}
    both = {"round_to": 8, "layout": "per_layer", "formats": ["gguf", "mlx"]}
    deployment = Deployment(tmp_path)
    result = deployment.run(deployment.request("llama", method=method, output=both))
    gguf, mlx = result.exports
    assert (gguf.architecture, mlx.architecture) == ("deci", "openelm")
    for export in result.exports:
        assert "own reading" in export.checked_by
        assert 0 < export.max_abs_logit_difference <= export.tolerance
    names = {file.name for file in deployment.download(tmp_path / "files").files}
    assert {"model-gguf/model-Q8_0.gguf", "model-mlx/model.safetensors", "model-mlx/task.json"} <= names
    assert not any(name.startswith("model/") for name in names)
    report = Report.model_validate_json((tmp_path / "files/report.json").read_bytes())
    assert "llama-server -m model-gguf/model-Q8_0.gguf" in report.snippet
    assert {runtime.name: runtime.export for runtime in report.runtimes if runtime.export} == {
        "llama.cpp": Format.gguf,
        "mlx-lm": Format.mlx,
        "onnxruntime": Format.onnx,
    }
    page = (tmp_path / "files/report.html").read_text()
    assert "For llama.cpp" in page
    assert "mlx_lm.server --model model-mlx" in page


def test_k_quants_without_a_quantiser_are_left_to_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    export, _ = exported(tmp_path, "qwen2", output={"formats": ["gguf"], "round_to": 8, "gguf_types": ["q4_k_m"]})
    assert [file.dtype for file in export.files] == ["f16"]
    assert any("model-F16.gguf model-gguf/model-Q4_K_M.gguf Q4_K_M" in note for note in export.notes)
    assert any("32 is no multiple of 256" in note for note in export.notes)


def test_a_family_without_a_form_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with pytest.raises(UnsupportedFormat, match="convert_hf_to_gguf"):
        deployment.run(deployment.request("gpt2", output=ALL_TYPES))
