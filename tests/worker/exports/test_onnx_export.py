"""ONNX files of slim models: what a job writes, in onnxruntime and onnxruntime-genai, and that wrong files fail it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.parts.runtimes.environments import NotInstallable, run_in
from service.contract.answers.result import Export
from service.contract.errors import ExportFailed, UnsupportedFormat
from service.contract.options import Format
from tests.support.pipeline_jobs import Deployment
from worker.checkpoints.loading import load_model
from worker.checkpoints.verification import Probe
from worker.exports import packages
from worker.exports.onnx import export as onnx_export
from worker.exports.onnx import files as onnx_files
from worker.exports.onnx.files import OnnxFiles
from worker.exports.onnx.graphs import DECODER_FILE, ENCODER_FILE

TOKENS = torch.tensor([[1, 20, 30, 40, 50]])

CLASSES = {"0": "LABEL_0", "1": "LABEL_1"}
PER_LAYER: dict[str, Any] = {
    "output": {"round_to": 1, "layout": "per_layer", "formats": ["safetensors", "onnx"]},
    "method": {"scope": "global", "units": ["ffn", "heads"]},
}
OF_FFN = PER_LAYER | {"method": {"scope": "global"}}


def test_missing_packages_are_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.PACKAGES, Format.onnx, ("onnx", "of_another_world"))
    deployment = Deployment(tmp_path)
    with pytest.raises(UnsupportedFormat, match=r"lacks of_another_world: install `taskslim\[worker,onnx\]`"):
        deployment.run(deployment.request("llama", **PER_LAYER))


def exported(root: Path, family: str, fields: dict[str, Any], task: dict[str, Any] | None = None) -> Export:
    """The export of a job, whose files are in `files` of the directory."""
    deployment = Deployment(root)
    result = deployment.run(deployment.request(family, task, **fields))
    deployment.download(root / "files")
    [export] = result.exports
    assert (export.format, export.checked_by, export.directory) == (Format.onnx, "onnxruntime", "model-onnx")
    assert export.max_abs_logit_difference <= export.tolerance
    assert export.bytes == sum((root / "files" / file.name).stat().st_size for file in export.files)
    assert (root / "files/model-onnx/tokenizer.json").exists()
    return export


@pytest.mark.slow
def test_a_job_writes_an_encoder(tmp_path: Path) -> None:
    export = exported(tmp_path, "bert", OF_FFN, {"template": "{text}", "labels": CLASSES})
    assert export.architecture == "bert"
    assert not (tmp_path / "files/model-onnx/genai_config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_a_job_writes_an_encoder_and_a_decoder(tmp_path: Path, family: str) -> None:
    export = exported(tmp_path, family, PER_LAYER)
    assert [Path(file.name).name for file in export.files] == [ENCODER_FILE, DECODER_FILE]


@pytest.mark.slow
def test_onnxruntime_genai_continues_a_text_as_transformers_does(tmp_path: Path) -> None:
    export = exported(tmp_path, "llama", PER_LAYER)
    assert export.architecture == "llama"
    directory = tmp_path / "files/model-onnx"
    config = json.loads((directory / "genai_config.json").read_text())
    assert config["model"]["decoder"]["num_hidden_layers"] == 2
    model = load_model(tmp_path / "files/model", device=torch.device("cpu")).model
    generate: Any = model.generate
    own = generate(
        TOKENS, attention_mask=torch.ones_like(TOKENS), max_new_tokens=12, min_new_tokens=12, do_sample=False
    )
    cell = {"model": str(directory), "tokens": TOKENS[0].tolist(), "count": 12, "answer": str(tmp_path / "answer")}
    try:
        run_in("onnxruntime", "in_genai", [json.dumps(cell)])
    except NotInstallable as error:
        pytest.skip(str(error))
    assert json.loads((tmp_path / "answer").read_text()) == own[0].tolist()


@pytest.mark.slow
def test_a_file_that_differs_fails_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def with_other_logits(
        checkpoint: Path, path: Path, directory: Path, while_waiting: Callable[[], None]
    ) -> OnnxFiles:
        probe = Probe.read(path)
        replace(probe, logits=probe.logits + 0.01).write(path)
        return onnx_files.write_files(checkpoint, path, directory, while_waiting)

    monkeypatch.setattr(onnx_export, "write_files", with_other_logits)
    deployment = Deployment(tmp_path)
    with pytest.raises(ExportFailed, match=r"ONNX file differ by 0\.01"):
        deployment.run(deployment.request("llama", **PER_LAYER))
    assert not list((tmp_path / "artifacts").rglob("*.onnx"))
