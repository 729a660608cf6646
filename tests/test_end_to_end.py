"""Whole jobs through real processes: Redis, the API, a worker, and an HTTP client."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from service.cli.client import Api, ApiFailed
from service.contract.answers.job import Event, EventPage, Job, JobStatus, Stage
from service.contract.answers.report import Report
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support import http
from tests.support.jobs import TEMPLATE, checkpoint, environment, rows_file
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from worker.reporting.pushing import MARK
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.units.groups import Site

ROWS = 60


@contextmanager
def running(log: Path, variables: Mapping[str, str], *command: str) -> Iterator[None]:
    """A process of the deployment, killed at the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=dict(variables), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def deployment(settings: Settings, **more: str) -> Iterator[Api]:
    """A client of a running API with one worker."""
    settings.state.mkdir(parents=True, exist_ok=True)
    port, variables = str(free_port()), environment(settings) | more
    taskslim, url = str(Path(sysconfig.get_path("scripts")) / "taskslim"), f"http://127.0.0.1:{port}"
    with (
        running(settings.state / "api.log", variables, taskslim, "api", "--port", port),
        running(settings.state / "worker.log", variables, sys.executable, "-m", "worker"),
    ):
        wait_until(lambda: is_ready(url))
        with closing(Api(url)) as api:
            yield api


def is_ready(url: str) -> bool:
    try:
        return http.get(f"{url}/readyz", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def request(model: str, rows: dict[str, Any]) -> dict[str, Any]:
    labels = {"positive": "positive", "negative": "negative"}
    return {
        "model": {"uri": model},
        "task": {"template": TEMPLATE, "labels": labels, "calibration": rows},
        "method": {"repair": "none"},  # so that the slim model is the dense one without some units, and nothing else
        "target": {"ratio": 0.5},
        "output": {"round_to": 8},
    }


def finish(api: Api, body: dict[str, Any], directory: Path) -> Job:
    """Submit the request, wait for the end of the job and download its artifacts."""
    submitted = api.submit(body)
    wait_until(lambda: api.job(submitted.id).status.is_terminal)
    job = api.job(submitted.id)
    assert job.status is JobStatus.succeeded, job.error
    for artifact in api.artifacts(job.id):
        api.download(job.id, artifact, directory)
    return job


def history(job: Job) -> list[Event]:
    """All events of a job, oldest first. A slow job has more of them than a page."""
    events, page = list[Event](), _events(job)
    while page.has_more:
        events += page.data
        page = _events(job, after=page.next_cursor)
    return events + page.data


def _events(job: Job, **params: Any) -> EventPage:
    return EventPage.model_validate_json(http.get(job.links.events, params=params).content)


def load(directory: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = model(input_ids=torch.arange(4, 18).view(2, 7)).logits
    return answer


def check_slimmed(dense: Path, directory: Path, job: Job) -> None:
    """The downloaded model is the dense one without the units that the job says it removed."""
    kept = {Site.parse(key): rows.long() for key, rows in load_file(directory / "kept.safetensors").items()}
    slim, whole = load(directory / "model"), load(dense)
    with masked(whole, ARCHITECTURES["llama"], kept):
        torch.testing.assert_close(logits(slim), logits(whole), atol=1e-5, rtol=1e-5)
    assert job.result is not None
    assert slim.num_parameters() == job.result.parameters.slim < job.result.parameters.dense == whole.num_parameters()
    assert Report.model_validate_json((directory / "report.json").read_bytes()).result == job.result


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return checkpoint(tmp_path_factory.mktemp("dense"))


def test_job_returns_the_dense_model_without_the_removed_units(settings: Settings, dense: Path, tmp_path: Path) -> None:
    lines = rows_file(tmp_path / "rows.jsonl", ROWS).read_text().splitlines()
    with deployment(settings) as api:
        job = finish(api, request(dense.as_uri(), {"rows": [json.loads(line) for line in lines]}), tmp_path / "down")
        check_slimmed(dense, tmp_path / "down", job)
        events = history(job)
    stages = [event.data["stage"] for event in events if event.type == "stage"]
    absent = (Stage.synthesise, Stage.search, Stage.repair, Stage.recover, Stage.controls, Stage.export, Stage.quantise)
    assert stages == [stage for stage in Stage if stage not in absent]
    assert [event.data["status"] for event in events if event.type == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]


@pytest.mark.slow
def test_failed_job_has_an_error_code_and_leaves_no_files(
    settings: Settings, storage: Storage, dense: Path, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path / "rows.jsonl", ROWS)
    rows.write_text(rows.read_text() + '{"text": "good film", "label": "mixed"}\n')
    with deployment(settings) as api:
        submitted = api.submit(request(dense.as_uri(), {"uri": rows.as_uri()}))
        wait_until(lambda: api.job(submitted.id).status.is_terminal)
        job = api.job(submitted.id)
    assert job.status is JobStatus.failed
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("unknown_label", "task.calibration.uri")
    assert f"line {ROWS + 1} has the label 'mixed'" in job.error.message
    assert not [key for key, _ in storage.list("") if submitted.id in key]


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_job_reads_from_writes_to_and_pushes_to_an_object_store(
    settings: Settings, dense: Path, tmp_path: Path
) -> None:
    rows_file(tmp_path / "rows.jsonl", ROWS)
    bucket, pushed = Storage("s3://bucket/inputs"), Storage("s3://bucket/reviews/1")
    for path in dense.iterdir():
        bucket.put_file(path, f"model/{path.name}")
    bucket.put_file(tmp_path / "rows.jsonl", "rows.jsonl")
    body = request("s3://bucket/inputs/model", {"uri": "s3://bucket/inputs/rows.jsonl", "limit": 40})
    body["output"] |= {"uri": pushed.url}
    with deployment(settings, SLIM_STORAGE_URL="s3://bucket/outputs") as api:
        job = finish(api, body, tmp_path / "down")
        assert not (settings.state / "artifacts").exists()
    assert any(key.endswith("manifest.json") for key, _ in Storage("s3://bucket/outputs").list(""))
    check_slimmed(dense, tmp_path / "down", job)
    assert job.result is not None
    assert job.result.pushed is not None
    assert (job.result.pushed.uri, job.result.pushed.error) == (pushed.url, None)
    model = {path.name: path.read_bytes() for path in (tmp_path / "down/model").iterdir()}
    assert job.result.pushed.files == len(model)
    assert model == {name: pushed.get_bytes(name) for name, _ in pushed.list("") if name != MARK}


OWN_WIDTHS = {  # by the scores of the first job, whose repair has another default criterion
    "method": {"scope": "global", "criterion": "attribution"},
    "output": {"round_to": 1, "layout": "per_layer"},
}


@pytest.mark.slow
def test_second_job_reuses_scores_and_its_model_can_be_slimmed_again(
    settings: Settings, dense: Path, tmp_path: Path
) -> None:
    body = request(dense.as_uri(), {"uri": rows_file(tmp_path / "rows.jsonl", ROWS).as_uri()})
    with deployment(settings) as api:
        first = finish(api, body, tmp_path / "first")
        planned = http.post(first.links.self.replace(f"jobs/{first.id}", "plans"), json=body).json()
        second = finish(api, body | OWN_WIDTHS | {"target": {"ratio": 0.3}}, tmp_path / "second")
        third = finish(api, body | OWN_WIDTHS | {"model": {"uri": f"job://{second.id}"}}, tmp_path / "third")
        stored = {found.digest: found for found in api.scores(limit=100)}
        compared = api.compare([first.id, second.id])
        with pytest.raises(ApiFailed, match="different models"):
            api.compare([first.id, third.id])
    assert first.result is not None
    assert second.result is not None
    assert third.result is not None
    assert [model.parameters for model in compared.models] == [
        job.result.parameters.slim for job in (first, second) if job.result
    ]
    assert planned["scores_cached"] is True
    assert planned["time"]["seconds"] > 0
    assert (first.result.scores_reused, first.result.evaluation_reused) == (False, False)
    assert (second.result.scores_reused, second.result.evaluation_reused) == (True, True)
    assert first.result.scores == second.result.scores != third.result.scores
    assert first.result.metrics.dense == second.result.metrics.dense
    assert {stored[name].job_id for name in (first.result.scores, third.result.scores) if name} == {first.id, third.id}
    report = Report.model_validate_json((tmp_path / "third/report.json").read_bytes())
    assert [(entry.job_id, entry.ratio) for entry in report.lineage] == [(second.id, second.result.ratio)]
    assert third.result.parameters.dense == second.result.parameters.slim > third.result.parameters.slim
    assert third.result.verified.loader.startswith("PerLayer")
