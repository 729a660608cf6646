"""Models that a job pushes: to a real S3 server, and to a stand-in for a hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from service.contract.answers.report import Report
from service.contract.answers.resources import Manifest
from service.contract.answers.result import Pushed
from service.contract.errors import PushFailed
from service.storage.object_store import Storage
from tests.support.hub_server import COMMIT, TOKEN, Hub, hub_server
from tests.support.pipeline_jobs import Deployment, Recorder
from worker.reporting.pushing import MARK, _check_unused


@pytest.fixture
def bucket(s3: str) -> None:
    """The bucket of the tests, in the S3 server."""
    Storage("s3://slim").check()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and its token in the environment."""
    with hub_server() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def run(deployment: Deployment, uri: str, recorder: Recorder | None = None) -> Pushed:
    request = deployment.request(output={"round_to": 8, "uri": uri})
    pushed = deployment.run(request, recorder).pushed
    assert pushed is not None
    return pushed


def stored_model(deployment: Deployment, directory: Path) -> dict[str, bytes]:
    """The checkpoint among the files of the job."""
    manifest: Manifest = deployment.download(directory)
    names = [file.name for file in manifest.files if file.name.startswith("model/")]
    return {name.removeprefix("model/"): (directory / name).read_bytes() for name in names}


@pytest.mark.usefixtures("bucket")
def test_model_and_card_are_pushed_to_a_prefix(deployment: Deployment, tmp_path: Path) -> None:
    uri = "s3://slim/reviews/1"
    pushed = run(deployment, uri)
    store = Storage(uri)
    found = {name: store.get_bytes(name) for name, _ in store.list("")}
    assert json.loads(found.pop(MARK)) == {"job_id": deployment.job.id}
    assert found == stored_model(deployment, tmp_path / "down")
    assert {"README.md", "model.safetensors", "task.json"} <= found.keys()
    assert (pushed.files, pushed.bytes) == (len(found), sum(map(len, found.values())))
    assert pushed.error is None
    report = Report.model_validate_json((tmp_path / "down/report.json").read_bytes())
    assert report.result.pushed == pushed


@pytest.mark.usefixtures("bucket")
def test_prefix_of_something_else_is_refused_before_any_work(deployment: Deployment) -> None:
    store = Storage("s3://slim/taken")
    store.put_bytes(b"precious", "model.safetensors")
    recorder = Recorder()
    with pytest.raises(PushFailed, match="is not empty") as refused:
        run(deployment, "s3://slim/taken", recorder)
    assert refused.value.param == "output.uri"
    assert len(recorder.stages) == 1
    assert store.list("") == [("model.safetensors", 8)]


def test_prefix_is_used_by_one_job_and_its_further_attempts(tmp_path: Path) -> None:
    store = Storage((tmp_path / "prefix").as_uri())
    _check_unused(store, "one", "s3://slim/one")
    store.put_bytes(b'{"job_id": "one"}', MARK)
    store.put_bytes(b"half", "model.safetensors")
    _check_unused(store, "one", "s3://slim/one")
    with pytest.raises(PushFailed, match="a prefix of its own for each job"):
        _check_unused(store, "two", "s3://slim/one")


@pytest.mark.usefixtures("bucket")
def test_wrong_credentials_end_the_job_before_any_work(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    recorder = Recorder()
    with pytest.raises(PushFailed, match="the right to write there"):
        run(deployment, "s3://slim/denied", recorder)
    assert len(recorder.stages) == 1


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client to httpx2
def test_model_and_card_are_committed_to_a_hub(deployment: Deployment, hub: Hub, tmp_path: Path) -> None:
    pushed = run(deployment, "hf://owner/slim-reviews")
    assert (pushed.error, pushed.commit) == (None, COMMIT)
    assert hub.private == {"owner/slim-reviews": True}
    assert hub.files["owner/slim-reviews"] == stored_model(deployment, tmp_path / "down")
    assert hub.uploads.values()


def test_job_keeps_its_files_where_the_hub_takes_none(deployment: Deployment, hub: Hub, tmp_path: Path) -> None:
    hub.may_write = False
    pushed = run(deployment, "hf://owner/slim-reviews")
    assert pushed.error is not None
    assert pushed.error.code == "push_failed"
    assert "the hub answered 403" in pushed.error.message
    assert pushed.files == 0
    assert "model.safetensors" in stored_model(deployment, tmp_path / "down")
    report = Report.model_validate_json((tmp_path / "down/report.json").read_bytes())
    assert "not_pushed" in [warning.code for warning in report.warnings]
    assert "download the files of the job" in (tmp_path / "down/report.html").read_text()


def test_hub_without_a_token_ends_the_job_before_any_work(
    deployment: Deployment, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    recorder = Recorder()
    with pytest.raises(PushFailed, match="set HF_TOKEN"):
        run(deployment, "hf://owner/slim-reviews", recorder)
    assert len(recorder.stages) == 1
