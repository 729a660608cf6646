"""Jobs whose weights take more than half of the free memory, against the same jobs with the weights in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch.testing import assert_close

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment
from tests.support.recoveries import FAST
from worker.checkpoints import loading
from worker.checkpoints.loading import load_model
from worker.slimming.streaming.layers import is_streamed
from worker.slimming.streaming.mapped import directory_of

torch.set_num_threads(1)

REQUESTS: dict[str, dict[str, Any]] = {
    "attribution": {"method": {"repair": "none"}},
    "surgeon": {"method": {"units": ["ffn", "heads"], "repair": "least_squares_layerwise"}},
    "bias": {"method": {"repair": "bias", "criterion": "attribution"}},
    "recovered": {"method": {"repair": "none"}, "recovery": FAST},
}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a tiny model take more than half of what is free."""
    monkeypatch.setattr(loading, "budget", lambda device: 1000)


def run(
    directory: Path, request: dict[str, Any], family: str = "llama", dtype: torch.dtype = torch.float32
) -> tuple[Result, Report, dict[str, bytes]]:
    """(the result, the report, the stored files) of a job in a deployment of its own."""
    checkpoints.write(directory / family, family, dtype)
    deployment = Deployment(directory)
    result = deployment.run(deployment.request(family, **request))
    deployment.download(directory / "files")
    files = {path.name: path.read_bytes() for path in (directory / "files").rglob("*") if path.is_file()}
    return result, Report.model_validate_json(files["report.json"]), files


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("attribution", torch.bfloat16),
        ("surgeon", torch.float32),
        ("surgeon", torch.float16),
        ("bias", torch.float32),
        ("recovered", torch.float32),
    ],
)
def test_a_streamed_job_gives_the_model_of_a_plain_one(
    name: str, dtype: torch.dtype, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain, plain_report, plain_files = run(tmp_path / "plain", REQUESTS[name], dtype=dtype)
    request.getfixturevalue("little_memory")
    streamed, report, files = run(tmp_path / "streamed", REQUESTS[name], dtype=dtype)
    assert (plain_report.streamed, report.streamed) == (False, True)
    for file in ("kept.safetensors", "model.safetensors"):
        assert_close(load(files[file]), load(plain_files[file]), rtol=1e-4, atol=1e-6)
    assert streamed.metrics == plain.metrics
    assert streamed.verified.max_abs_logit_difference <= streamed.verified.tolerance


@pytest.mark.usefixtures("little_memory")
def test_nothing_of_a_streamed_job_is_left(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.run(deployment.request())
    assert not list(tmp_path.rglob("*.weights"))


@pytest.mark.usefixtures("little_memory")
def test_an_encoder_decoder_is_not_streamed(tmp_path: Path) -> None:
    _, report, _ = run(tmp_path / "job", {}, "t5")
    assert not report.streamed


def test_an_adapter_is_merged_into_weights_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    checkpoints.write_adapter(tmp_path / "adapter")
    places: Any = {"device": torch.device("cpu"), "adapter": tmp_path / "adapter", "scratch": tmp_path}
    plain = load_model(tmp_path / "model", **places)
    monkeypatch.setattr(loading, "budget", lambda device: 1000)
    streamed = load_model(tmp_path / "model", **places)
    assert (is_streamed(plain.model), is_streamed(streamed.model)) == (False, True)
    assert {directory_of(parameter) for parameter in streamed.model.parameters()} == {tmp_path}
    assert_close(dict(streamed.model.named_parameters()), dict(plain.model.named_parameters()), rtol=0, atol=0)
