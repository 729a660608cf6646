"""`taskslim-client` against a real server process. The tests change records in place of a worker."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from taskslim_client import (
    Client,
    DamagedFile,
    InvalidAnswer,
    Job,
    JobFailed,
    NoAnswer,
    Refused,
    WaitedTooLong,
)

from service.contract.answers.job import JobError, Progress, Stage
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.keys import attempt_prefix
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support.api_process import api
from tests.support.compared_jobs import compared_job
from tests.support.finished_jobs import FILES, finish
from tests.support.job_requests import request_body

ROWS = [{"text": f"{'fine' if index % 2 else 'dull'} {index}", "label": ("b", "a")[index % 2]} for index in range(40)]


@pytest.fixture(scope="module")
def server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    """The URL of a server process, and its settings."""
    directory = tmp_path_factory.mktemp("client")
    settings = Settings(redis_url=redis_server, state=directory / "state", lease_seconds=300, device="cpu")
    with api(settings, directory / "log") as url:
        yield url, settings


@pytest.fixture
def client(redis: Redis, server: tuple[str, Settings]) -> Iterator[Client]:
    with Client(server[0], patience=5) as client:
        yield client


@pytest.fixture
def job_store(redis: Redis, server: tuple[str, Settings]) -> JobStore:
    return JobStore(redis, lease_seconds=300)


@pytest.fixture
def storage(server: tuple[str, Settings]) -> Storage:
    return Storage(server[1].artifacts_url)


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    return request_body(tmp_path)


def finish_soon(job: Job, job_store: JobStore, storage: Storage) -> threading.Timer:
    """Make the job succeed from another thread."""
    record = job_store.get(DEFAULT_TENANT, job.id)
    timer = threading.Timer(0.3, partial(finish, record, job_store, storage))
    timer.start()
    return timer


def test_plan_and_job_of_a_short_request(client: Client, body: dict[str, Any], tmp_path: Path) -> None:
    task = {name: body["task"][name] for name in ("template", "labels")}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in body["task"]["calibration"]["rows"]))
    request = client.request(body["model"]["uri"], task, rows, ratio=0.25, tags={"by": "client"})
    assert request["task"]["calibration"]["uri"].startswith("dataset://")
    plan = client.plan(request)
    assert plan.slim is not None
    assert plan.slim < plan.dense
    job = client.submit(request)
    assert (job.status, job.fraction, job.has_ended) == ("queued", 0, False)
    assert client.job(job.id).document["tags"] == {"by": "client"}
    assert client.cancel(job).status == "cancelled"


def test_rows_are_inline_a_file_or_a_uri(client: Client, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_text("text,label\nfine,positive\ndull,negative\n")
    request = client.request({"uri": "hf://a/b", "revision": "v1"}, "sst2", [{"sentence": "x", "label": 1}], keep=0.9)
    assert request == {
        "model": {"uri": "hf://a/b", "revision": "v1"},
        "task": {"preset": "sst2", "calibration": {"rows": [{"sentence": "x", "label": 1}]}},
        "target": {"keep_metric": 0.9},
    }
    other = client.request("hf://a/b", "sst2", "s3://b/rows.jsonl", evaluation=csv, target={"sweep": [0.1]})
    assert other["task"]["calibration"] == {"uri": "s3://b/rows.jsonl"}
    assert other["task"]["evaluation"]["uri"].startswith("dataset://")
    assert other["target"] == {"sweep": [0.1]}
    with pytest.raises(ValueError, match="convert it first"):
        client.upload(tmp_path / "rows.xlsx")


def test_refused_request_has_the_code_and_the_fields_of_the_problem(client: Client, body: dict[str, Any]) -> None:
    for send in (client.plan, client.submit):
        with pytest.raises(Refused, match=r"target\.ratio") as refused:
            send(body | {"target": {"ratio": 7}})
        assert (refused.value.status, refused.value.code) == (422, "invalid_request")
        assert [*refused.value.fields] == ["target.ratio"]
    with pytest.raises(Refused) as refused:
        client.job("01KB3ZJ5T8Q6W2E4R9Y7N1M0PX")
    assert (refused.value.status, refused.value.code) == (404, "not_found")


def test_key_is_sent(server: tuple[str, Settings], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = ApiKeys(redis).create()
    missing = "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"
    with Client(server[0], f"{key}x") as client, pytest.raises(Refused) as refused:
        client.job(missing)
    assert refused.value.code == "unauthorized"
    monkeypatch.setenv("SLIM_URL", server[0])
    monkeypatch.setenv("SLIM_API_KEY", key)
    with Client() as client, pytest.raises(Refused) as refused:
        client.job(missing)
    assert refused.value.code == "not_found"


@pytest.mark.parametrize("followed", [True, False])
def test_wait_returns_the_succeeded_job(
    client: Client,
    body: dict[str, Any],
    job_store: JobStore,
    storage: Storage,
    followed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = client.submit(body)
    timer = finish_soon(job, job_store, storage)
    done = client.wait(job, progress=followed, timeout=120)
    timer.join()
    assert (done.status, done.has_ended) == ("succeeded", True)
    assert done.kept == pytest.approx(0.882 / 0.902)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ([f"{job.id}   0% queued", f"{job.id} 100% succeeded"] if followed else [])


def test_progress_is_given_to_a_function(client: Client, body: dict[str, Any], job_store: JobStore) -> None:
    job = client.submit(body)
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.5))
    seen: list[Job] = []

    def note(state: Job) -> None:
        if not seen:
            job_store.fail(lease, JobError(code="unknown_label", message="line 3", param="task.calibration.uri"))
        seen.append(state)

    with pytest.raises(JobFailed, match=r"line 3 \(unknown_label\)") as failed:
        client.wait(job, progress=note)
    assert (failed.value.code, failed.value.param) == ("unknown_label", "task.calibration.uri")
    assert [(state.status, state.stage) for state in seen] == [("running", "attribute"), ("failed", "attribute")]


def test_cancelled_job_and_a_wait_that_is_too_long(client: Client, body: dict[str, Any]) -> None:
    job = client.submit(body)
    with pytest.raises(WaitedTooLong):
        client.wait(job, timeout=0.1)
    client.cancel(job)
    with pytest.raises(JobFailed) as failed:
        client.wait(job)
    assert failed.value.code == "cancelled"
    with pytest.raises(ValueError, match="no result"):
        assert client.job(job).kept


def test_download_checks_and_continues(
    client: Client, body: dict[str, Any], job_store: JobStore, storage: Storage, tmp_path: Path
) -> None:
    job = client.submit(body)
    with pytest.raises(ValueError, match="wait until it has succeeded"):
        client.download(job, tmp_path / "down")
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage)
    part = tmp_path / "down/model/model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES["model/model.safetensors"][:1000])
    paths = client.download(job, tmp_path / "down", under="model/")
    assert {str(path.relative_to(tmp_path / "down")): path.read_bytes() for path in paths} == {
        name: content for name, content in FILES.items() if name.startswith("model/")
    }
    changed = paths[0].stat().st_mtime_ns
    client.download(job, tmp_path / "down")
    assert paths[0].stat().st_mtime_ns == changed
    assert not list((tmp_path / "down").rglob("*.part"))
    assert client.report(job)["job_id"] == "of a test"


def test_damaged_file_is_not_kept(
    client: Client, body: dict[str, Any], job_store: JobStore, storage: Storage, tmp_path: Path
) -> None:
    job = client.submit(body)
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage)
    name = "model/config.json"
    storage.put_bytes(b"x" * len(FILES[name]), attempt_prefix(DEFAULT_TENANT, job.id, 1) + name)
    with pytest.raises(DamagedFile):
        client.download(job, tmp_path / "down", under=name)
    assert not [path for path in (tmp_path / "down").rglob("*") if path.is_file()]


def test_jobs_are_compared(client: Client, job_store: JobStore, storage: Storage) -> None:
    ids = [compared_job(job_store, storage, 7, 0.45), compared_job(job_store, storage, 5, 0.4)]
    assert [model["job_id"] for model in client.compare([client.job(ids[0]), ids[1]])["models"]] == ids


# --- servers that are away or no servers of this API -----------------------------------------------------------------


class Faulty(BaseHTTPRequestHandler):
    """Answers from a list, each with its status; the last one again and again. Keeps the keys of requests."""

    answers: list[tuple[int, str, bytes]]
    keys: list[str | None]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.keys.append(self.headers.get("Idempotency-Key"))
        status, kind, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def faulty() -> Iterator[tuple[str, type[Faulty]]]:
    """The URL of a server, and the class that has its answers."""
    handler = type("Answers", (Faulty,), {"answers": [], "keys": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


QUEUED = {"id": "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX", "status": "queued", "stage": None, "progress": {"fraction": 0}}
QUEUED |= {"result": None, "error": None}


def test_submission_is_repeated_with_the_same_key_while_the_server_is_away(faulty: tuple[str, type[Faulty]]) -> None:
    url, handler = faulty
    problem = json.dumps({"code": "queue_unavailable", "detail": "Redis is away"}).encode()
    handler.answers = [
        (503, "application/problem+json", problem),
        (202, "application/json", json.dumps(QUEUED).encode()),
    ]
    with Client(url, patience=30) as client:
        assert client.submit({}).id == QUEUED["id"]
    assert len(handler.keys) == 2
    assert handler.keys[0] == handler.keys[1] is not None


def test_patience_ends(faulty: tuple[str, type[Faulty]]) -> None:
    url, handler = faulty
    problem = json.dumps({"code": "queue_unavailable", "detail": "Redis is away"}).encode()
    handler.answers = [(503, "application/problem+json", problem)]
    with Client(url, patience=0) as client, pytest.raises(Refused) as refused:
        client.submit({})
    assert (refused.value.status, refused.value.code, len(handler.keys)) == (503, "queue_unavailable", 1)
    with Client("http://127.0.0.1:9", patience=0) as client, pytest.raises(NoAnswer):
        client.submit({})


@pytest.mark.parametrize(
    "answer", [(404, "text/html", b"<h1>proxy</h1>"), (200, "text/html", b"<h1>"), (200, "application/json", b"[]")]
)
def test_answer_of_another_server_is_invalid(faulty: tuple[str, type[Faulty]], answer: tuple[int, str, bytes]) -> None:
    url, handler = faulty
    handler.answers = [answer]
    with Client(url, patience=0) as client, pytest.raises(InvalidAnswer):
        client.submit({})
