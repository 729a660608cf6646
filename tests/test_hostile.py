"""Attacks of a tenant with a valid key on a deployment. Each is refused and logged, and no code of the tenant runs.

The deployment is one API process and one worker process. Code that ran would leave a file behind. `test_faults.py`
tests forged queue entries; `service/webhooks/` tests webhooks that resolve or redirect to a private address.
"""

import json
import os
import pickle
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support import http
from tests.support.api_process import api
from tests.support.checkpoints import write_wrong_offsets
from tests.support.finished_jobs import FILES, finish
from tests.support.jobs import checkpoint, request, worker
from tests.support.processes import wait_for_child
from tests.support.waiting import DEADLINE_SECONDS, wait_until

GIB, MIB = 2**30, 2**20
METADATA = "169.254.169.254"


@dataclass(frozen=True)
class Deployment:
    """A deployment and a client with a tenant's key. `allowed` is the only directory that the tenant may name."""

    http: httpx.Client
    allowed: Path
    log: Path
    settings: Settings

    @property
    def redis(self) -> Redis:
        return connect(self.settings.redis_url)

    def refused(self, status: int, code: str, answer: httpx.Response) -> None:
        """Assert that the response is this problem and that the log has a line with the id of the request."""
        assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
        told = (status, code, answer.headers["x-request-id"])
        wait_until(
            lambda: told in [(line.get("status"), line.get("code"), line.get("request_id")) for line in self.lines()]
        )

    def lines(self) -> list[dict[str, Any]]:
        """The complete lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("hostile")
    allowed, log = directory / "allowed", directory / "api.log"
    allowed.mkdir()
    limits = {
        "SLIM_LOCAL_ROOTS": str(allowed),
        "SLIM_MAX_DATASET_BYTES": str(32 * MIB),
        "SLIM_MAX_REQUESTS": "100000",
        "TMPDIR": str(directory),
    }
    with embedded_redis(directory / "redis") as redis_url:
        settings = Settings(redis_url=redis_url, state=directory / "state", device="cpu")
        key = ApiKeys(connect(redis_url)).create("stranger")[1]
        headers = {"Authorization": f"Bearer {key}"}
        with api(settings, log, **limits) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            yield Deployment(http, allowed, log, settings)


@pytest.fixture(scope="module")
def body(deployment: Deployment) -> dict[str, Any]:
    """A valid request: its model and rows lie in the allowed directory."""
    return request(checkpoint(deployment.allowed / "model"), 60).model_dump(mode="json", exclude_none=True)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A file that exists if any code of the tenant was executed."""
    return tmp_path / "proof"


# --- models that would run code --------------------------------------------------------------------------------------


class Exploit:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def add_code(model: Path, proof: Path) -> None:
    (model / "mine.py").write_text(f"open({str(proof)!r}, 'w')\nclass Mine: pass\n")


def pickled_weights(model: Path, proof: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(proof)))
    (model / "model.safetensors").unlink()


def zipped_weights(model: Path, proof: Path) -> None:
    (model / "model.safetensors").rename(model / "model.zip")


def remote_code(model: Path, proof: Path) -> None:
    add_code(model, proof)
    change_json(model / "config.json", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"})


def linked_weights(model: Path, proof: Path) -> None:
    (model / "model.safetensors").rename(model.parents[1] / "elsewhere.safetensors")
    (model / "model.safetensors").symlink_to(model.parents[1] / "elsewhere.safetensors")


def linked_directory(model: Path, proof: Path) -> None:
    model.rename(model.parents[1] / "elsewhere")
    model.symlink_to(model.parents[1] / "elsewhere")


REFUSED_MODELS: dict[str, tuple[Callable[[Path, Path], None], int, str]] = {
    "pickle": (pickled_weights, 422, "invalid_model"),
    "zip": (zipped_weights, 422, "invalid_model"),
    "auto_map": (remote_code, 422, "invalid_model"),
    "offsets": (lambda model, proof: write_wrong_offsets(model), 422, "invalid_model"),
    "linked file": (linked_weights, 403, "forbidden_path"),
    "linked directory": (linked_directory, 403, "forbidden_path"),
}


def test_api_refuses_models_with_code_or_links_out_of_the_allowed_directory(
    deployment: Deployment, body: dict[str, Any], proof: Path
) -> None:
    before = deployment.http.get("/jobs").json()["data"]
    for name, (harm, status, code) in REFUSED_MODELS.items():
        model = checkpoint(deployment.allowed / name.replace(" ", "-"))
        harm(model, proof)
        deployment.refused(
            status, code, deployment.http.post("/jobs", json=body | {"model": {"uri": model.absolute().as_uri()}})
        )
    assert not proof.exists()
    assert deployment.http.get("/jobs").json()["data"] == before


def has_ended(deployment: Deployment, job: str) -> bool:
    return bool(deployment.http.get(f"/jobs/{job}", headers={"Prefer": "wait=20"}).json()["finished_at"])


@pytest.mark.slow
def test_worker_refuses_a_tokenizer_with_code_and_opens_no_pickle(
    deployment: Deployment, body: dict[str, Any], proof: Path
) -> None:
    tokenizer, pickled = (checkpoint(deployment.allowed / name) for name in ("tokenizer", "both"))
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(proof)))
    (pickled / "training_args.bin").write_bytes(pickle.dumps(Exploit(proof)))
    jobs = {
        model.name: deployment.http.post("/jobs", json=body | {"model": {"uri": model.as_uri()}}).json()["id"]
        for model in (tokenizer, pickled)
    }
    # The API would refuse this tokenizer: it is changed while the job waits.
    add_code(tokenizer, proof)
    change_json(tokenizer / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]})
    with worker(deployment.settings):
        for job in jobs.values():
            wait_until(lambda job=job: has_ended(deployment, job))  # type: ignore[misc]
    error = deployment.http.get(f"/jobs/{jobs['tokenizer']}").json()["error"]
    assert (error["code"], "auto_map" in error["message"]) == ("invalid_model", True)
    assert (
        deployment.http.get(f"/jobs/{jobs['both']}").json()["status"] == "succeeded"
    )  # the pickles beside are not opened
    text = (deployment.settings.state / "worker.log").read_text()
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    assert any((line.get("job_id"), line.get("reason")) == (jobs["tokenizer"], "InvalidModel") for line in lines)
    assert not proof.exists()


# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "kind"), [("/jobs", "application/json"), ("/datasets", "application/jsonl")])
def test_body_of_two_gigabytes_is_refused_without_filling_memory_or_disk(
    deployment: Deployment, path: str, kind: str
) -> None:
    port = str(deployment.http.base_url.port)
    server = wait_for_child(psutil.Process(), lambda command: port in command)
    before = server.memory_info().rss
    answer, sent = send_chunks(deployment, path, kind, 2 * GIB)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"body_too_large"' in answer
    assert sent < GIB // 4
    assert server.memory_info().rss - before < 200 * MIB
    wait_until(lambda: not list(deployment.log.parent.glob("taskslim-upload-*")))
    wait_until(
        lambda: any(line.get("code") == "body_too_large" and line["route"] == path for line in deployment.lines())
    )
    with connection_to(deployment, path, kind, f"Content-Length: {2 * GIB}") as declared:
        assert declared.recv(65536).startswith(b"HTTP/1.1 413 ")


@contextmanager
def connection_to(deployment: Deployment, path: str, kind: str, *lines: str) -> Iterator[socket.socket]:
    """A connection that has sent the head of a POST request."""
    url = deployment.http.base_url
    head = [f"POST {path} HTTP/1.1", f"Host: {url.host}", f"Authorization: {deployment.http.headers['Authorization']}"]
    head += [f"Content-Type: {kind}", "Connection: close", *lines]
    with socket.create_connection((url.host, url.port or 80), timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        yield connection


def send_chunks(deployment: Deployment, path: str, kind: str, size: int) -> tuple[bytes, int]:
    """Send a chunked body of `size` bytes until the server answers. Returns the answer and the number of bytes sent."""
    sent, answer = 0, b""
    chunk = f"{MIB:x}\r\n".encode() + b'{"text": "a"}\n'.ljust(MIB) + b"\r\n"
    with connection_to(deployment, path, kind, "Transfer-Encoding: chunked") as connection:
        while sent < size and not select.select([connection], [], [], 0)[0]:
            try:
                connection.sendall(chunk)
            except OSError:  # the server has closed its side; the answer is on its way
                break
            sent += MIB
        end = time.monotonic() + 60
        while b"body_too_large" not in answer and time.monotonic() < end and (piece := connection.recv(65536)):
            answer += piece
    return answer, sent


def test_deeply_nested_json_is_refused(deployment: Deployment) -> None:
    for content in (
        b"[" * 1_000_000,
        b'{"task":' * 500_000,
        b'{"tags": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ):
        answer = deployment.http.post("/jobs", content=content, headers={"Content-Type": "application/json"})
        deployment.refused(422, "invalid_request", answer)
        assert deployment.http.get("/healthz").is_success


# --- names and places ------------------------------------------------------------------------------------------------


def finished_job(deployment: Deployment, body: dict[str, Any]) -> str:
    """The id of a succeeded job with artifacts."""
    job: str = deployment.http.post("/jobs", json=body).json()["id"]
    job_store = JobStore(deployment.redis)
    finish(job_store.get("stranger", job), job_store, Storage(deployment.settings.artifacts_url))
    return job


def test_paths_cannot_leave_their_directory(deployment: Deployment, body: dict[str, Any]) -> None:
    secret = deployment.allowed.parent / "secret.jsonl"
    secret.write_text('{"text": "a", "label": "positive"}\n')
    for uri in (
        f"file://{deployment.allowed}/../secret.jsonl",
        f"file://{deployment.allowed}/%2e%2e/secret.jsonl",
        secret.as_uri(),
        "file:///etc/passwd",
        "file:///proc/self/environ",
        f"http://{METADATA}/latest/meta-data/",
        f"s3://../{METADATA}/rows.jsonl",
    ):
        answer = deployment.http.post("/jobs", json=body | {"task": body["task"] | {"calibration": {"uri": uri}}})
        deployment.refused(answer.status_code, answer.json()["code"], answer)
        assert answer.status_code in (403, 422), uri
    job = finished_job(deployment, body)
    for name in (
        "../manifest.json",
        "%2e%2e/manifest.json",
        "..%2f..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "model/../x",
    ):
        answer = deployment.http.get(f"/jobs/{job}/artifacts/{name}")
        assert answer.status_code == 404, name
    for path in ("/pages/..%2fapp.py", "/pages/%2e%2e/settings.py", "/datasets/..%2f..%2fjobs"):
        assert deployment.http.get(path).status_code == 404, path


def test_changed_or_expired_download_link_is_refused(deployment: Deployment, body: dict[str, Any]) -> None:
    job = finished_job(deployment, body)
    link = httpx.URL(deployment.http.get(f"/jobs/{job}/artifacts").json()["data"][0]["url"])
    assert http.get(link).content == FILES["model/config.json"]
    for changed in (
        link.copy_set_param("expires", str(int(link.params["expires"]) + 1)),
        link.copy_set_param("expires", "1"),
        link.copy_set_param("tenant", "default"),
        link.copy_set_param("signature", link.params["signature"][::-1]),
        link.copy_with(path=link.path.replace("config.json", "model.safetensors")),
    ):
        deployment.refused(403, "forbidden", http.get(changed))


# --- addresses -------------------------------------------------------------------------------------------------------


def test_webhook_to_a_private_address_is_refused(deployment: Deployment, body: dict[str, Any]) -> None:
    for url in (f"http://{METADATA}/hook", f"https://{METADATA}/hook", "https://10.0.0.1/hook", "https://[::1]/hook"):
        answer = deployment.http.post("/jobs", json=body | {"webhook": {"url": url}})
        deployment.refused(422, "unsafe_url", answer)
        assert [entry["param"] for entry in answer.json()["errors"]] == ["webhook.url"]
