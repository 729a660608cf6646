"""The indices of a job and its base model make the checkpoint of the job again, bit by bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from service.contract.answers.report import Report
from service.contract.errors import InvalidData, InvalidModel, InvalidRequest, TaskslimError, VerificationFailed
from service.contract.options import Repair
from service.storage.object_store import digest_file
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment
from worker.checkpoints import kept_indices
from worker.checkpoints.kept_indices import apply_kept, read_kept, save_kept
from worker.sources.fetching import FetchedModel

BOTH = ["safetensors", "indices"]
JOBS: dict[str, dict[str, Any]] = {
    "llama": {"method": {"repair": "none"}, "output": {"round_to": 8, "formats": BOTH}},
    "t5": {
        "method": {"scope": "global", "units": ["ffn", "heads"], "repair": "none"},
        "output": {"round_to": 1, "layout": "per_layer", "formats": BOTH},
    },
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path_factory.mktemp("indices"))


def files_of_job(deployment: Deployment, family: str, **fields: Any) -> Path:
    """The downloaded files of a job."""
    deployment.run(deployment.request(family, **fields))
    directory = deployment.root / deployment.job.id
    deployment.download(directory)
    return directory


@pytest.fixture(scope="module")
def files(deployment: Deployment) -> Path:
    """The files of the job on the Llama, in both formats."""
    return files_of_job(deployment, "llama", **JOBS["llama"])


def as_fetched(directory: Path) -> FetchedModel:
    """A model that is not quantised."""
    return FetchedModel(directory, directory, None)


def contents(directory: Path) -> dict[str, str]:
    """Name -> digest of a checkpoint's files, without the model card."""
    return {path.name: digest_file(path) for path in directory.iterdir() if path.name != "README.md"}


@pytest.mark.slow
def test_applied_indices_give_the_checkpoint_bit_by_bit(
    deployment: Deployment, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (files / "kept.safetensors").stat().st_size < 8_000
    again, command = deployment.root / "again", [sys.executable, "-m", "service.cli", "apply"]
    subprocess.run([*command, files / "kept.safetensors", again], check=True, capture_output=True)
    assert contents(again) == contents(files / "model")
    monkeypatch.setattr(sys, "argv", ["taskslim apply", str(files / "kept.safetensors"), str(again)])
    with pytest.raises(SystemExit, match="is not empty"):
        kept_indices.main()


def test_indices_of_layers_with_different_widths_are_applied(deployment: Deployment) -> None:
    files = files_of_job(deployment, "t5", **JOBS["t5"])
    apply_kept(files / "kept.safetensors", as_fetched(deployment.root / "t5"), None, deployment.root / "own-widths")
    assert contents(deployment.root / "own-widths") == contents(files / "model")


def test_indices_on_the_model_of_another_job_are_applied_to_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = Deployment(tmp_path)
    first = files_of_job(deployment, "llama", **JOBS["llama"])
    asked = {"model": {"uri": f"job://{deployment.job.id}"}, "output": {"round_to": 8, "formats": ["indices"]}}
    alone = files_of_job(deployment, "llama", **JOBS["llama"] | asked)
    report = Report.model_validate_json((alone / "report.json").read_bytes())
    assert "taskslim apply kept.safetensors model --model DIRECTORY" in report.snippet
    command = ["taskslim apply", str(alone / "kept.safetensors"), str(tmp_path / "again")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"result of job://\S+: download it.* --model"):
        kept_indices.main()
    monkeypatch.setattr(sys, "argv", [*command, "--model", str(first / "model")])
    kept_indices.main()
    assert capsys.readouterr().out == f"{tmp_path / 'again'}\n"


def test_a_job_can_store_indices_without_weights(deployment: Deployment, files: Path) -> None:
    alone = files_of_job(deployment, "llama", **JOBS["llama"] | {"output": {"round_to": 8, "formats": ["indices"]}})
    assert {path.name for path in alone.iterdir()} == {"kept.safetensors", "report.json", "report.html"}
    assert read_kept(alone / "kept.safetensors")[1] == read_kept(files / "kept.safetensors")[1]
    report = Report.model_validate_json((alone / "report.json").read_bytes())
    assert report.snippet.startswith("# First, in a shell: taskslim apply kept.safetensors model\n")
    assert report.result.verified.max_abs_logit_difference == 0


def test_indices_with_a_repair_are_refused(deployment: Deployment) -> None:
    with pytest.raises(ValidationError, match=r"output.formats: indices"):
        deployment.request(method={"repair": "least_squares"}, output={"formats": BOTH})


def with_origin(files: Path, path: Path, **changes: Any) -> Path:
    """The indices of the job with a changed origin."""
    kept, origin = read_kept(files / "kept.safetensors")
    save_kept(kept, origin.model_copy(update=changes), path)
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"repair": Repair.least_squares}, InvalidRequest, "download its safetensors"),
        ({"model_digest": "0" * 64}, InvalidModel, "not the model"),
        ({"adapter_digest": "0" * 64}, InvalidModel, "adapter"),
        ({"weights": {"model.safetensors": "0" * 64}}, VerificationFailed, "versions"),
    ],
)
def test_indices_with_another_origin_are_refused(
    deployment: Deployment,
    files: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[TaskslimError],
    message: str,
) -> None:
    path = with_origin(files, tmp_path / "kept.safetensors", **changes)
    with pytest.raises(error, match=message):
        apply_kept(path, as_fetched(deployment.root / "llama"), None, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_another_model_of_the_same_shape_is_refused(files: Path, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "other")
    model.lm_head.weight.data[0] += 1
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(InvalidModel, match="its files differ"):
        apply_kept(files / "kept.safetensors", as_fetched(tmp_path / "other"), None, tmp_path / "model")


@pytest.mark.parametrize("kept", [[0, 48], [3, 3], [-1, 2], [5, 4]])
def test_indices_that_the_model_does_not_have_are_refused(
    deployment: Deployment, files: Path, tmp_path: Path, kept: list[int]
) -> None:
    _, origin = read_kept(files / "kept.safetensors")
    tensors = load_file(files / "kept.safetensors") | {"decoder.0.ffn": torch.tensor(kept, dtype=torch.int32)}
    save_file(tensors, tmp_path / "kept.safetensors", {kept_indices.KEY: origin.model_dump_json()})
    with pytest.raises(InvalidData, match=r"decoder.0.ffn do not rise from 0 to 47"):
        apply_kept(tmp_path / "kept.safetensors", as_fetched(deployment.root / "llama"), None, tmp_path / "model")


def test_a_file_without_an_origin_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "kept.safetensors")
    with pytest.raises(InvalidData, match="does not hold the indices"):
        read_kept(tmp_path / "kept.safetensors")
