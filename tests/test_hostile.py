"""What a stranger with a key may try against a whole deployment: refused, logged, and nothing of theirs executed.

One API process and one worker, as they are deployed; what could run would leave a file behind. An entry of the queue
that names os.system is in `test_faults.py`; webhooks that lead to an inner address by name or redirect, and replayed
ones, are in `service/test_webhooks.py`.
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
from tests.support.finished_jobs import FILES, finish
from tests.support.jobs import checkpoint, request, worker
from tests.support.processes import wait_for_child
from tests.support.waiting import DEADLINE_SECONDS, wait_until

GIB, MIB = 2**30, 2**20
METADATA = "169.254.169.254"


@dataclass(frozen=True)
class Door:
    """A deployment as a stranger meets it: `allowed` is the one directory that they may name."""

    http: httpx.Client
    allowed: Path
    log: Path
    settings: Settings

    @property
    def redis(self) -> Redis:
        return connect(self.settings.redis_url)

    def refused(self, status: int, code: str, answer: httpx.Response) -> None:
        """The answer is that problem, and the log gets a line of it under the request's id."""
        assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
        told = (status, code, answer.headers["x-request-id"])
        wait_until(
            lambda: told in [(line.get("status"), line.get("code"), line.get("request_id")) for line in self.lines()]
        )

    def lines(self) -> list[dict[str, Any]]:
        """Of the log, as far as they are written to their end."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
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
            yield Door(http, allowed, log, settings)


@pytest.fixture(scope="module")
def body(door: Door) -> dict[str, Any]:
    """A sound request, whose model and rows lie where they may."""
    return request(checkpoint(door.allowed / "model"), 60).model_dump(mode="json", exclude_none=True)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A file that is there if anything of a stranger's was executed."""
    return tmp_path / "proof"


# --- models that would run code --------------------------------------------------------------------------------------


class Exploit:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_code(model: Path, proof: Path) -> None:
    (model / "mine.py").write_text(f"open({str(proof)!r}, 'w')\nclass Mine: pass\n")


def pickled_weights(model: Path, proof: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(proof)))
    (model / "model.safetensors").unlink()


def zipped_weights(model: Path, proof: Path) -> None:
    (model / "model.safetensors").rename(model / "model.zip")


def code_of_its_own(model: Path, proof: Path) -> None:
    with_code(model, proof)
    change_json(model / "config.json", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"})


def lying_offsets(model: Path, proof: Path) -> None:
    path = model / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name]["data_offsets"][1] += 2**40
    lie = json.dumps(header).encode()
    path.write_bytes(len(lie).to_bytes(8, "little") + lie + content[8 + size :])


def weights_that_lie_elsewhere(model: Path, proof: Path) -> None:
    (model / "model.safetensors").rename(model.parents[1] / "elsewhere.safetensors")
    (model / "model.safetensors").symlink_to(model.parents[1] / "elsewhere.safetensors")


def directory_that_lies_elsewhere(model: Path, proof: Path) -> None:
    model.rename(model.parents[1] / "elsewhere")
    model.symlink_to(model.parents[1] / "elsewhere")


AT_THE_DOOR: dict[str, tuple[Callable[[Path, Path], None], int, str]] = {
    "pickle": (pickled_weights, 422, "invalid_model"),
    "zip": (zipped_weights, 422, "invalid_model"),
    "auto_map": (code_of_its_own, 422, "invalid_model"),
    "offsets": (lying_offsets, 422, "invalid_model"),
    "linked file": (weights_that_lie_elsewhere, 403, "forbidden_path"),
    "linked directory": (directory_that_lies_elsewhere, 403, "forbidden_path"),
}


def test_a_model_that_would_run_code_or_leave_its_place_is_refused(
    door: Door, body: dict[str, Any], proof: Path
) -> None:
    before = door.http.get("/jobs").json()["data"]
    for name, (harm, status, code) in AT_THE_DOOR.items():
        model = checkpoint(door.allowed / name.replace(" ", "-"))
        harm(model, proof)
        door.refused(status, code, door.http.post("/jobs", json=body | {"model": {"uri": model.absolute().as_uri()}}))
    assert not proof.exists()
    assert door.http.get("/jobs").json()["data"] == before


def has_ended(door: Door, job: str) -> bool:
    return bool(door.http.get(f"/jobs/{job}", headers={"Prefer": "wait=20"}).json()["finished_at"])


def test_what_only_a_worker_can_see_fails_the_job_and_runs_nothing(
    door: Door, body: dict[str, Any], proof: Path
) -> None:
    tokenizer, pickled = (checkpoint(door.allowed / name) for name in ("tokenizer", "both"))
    with_code(tokenizer, proof)
    change_json(tokenizer / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]})
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(proof)))
    (pickled / "training_args.bin").write_bytes(pickle.dumps(Exploit(proof)))
    jobs = {
        model.name: door.http.post("/jobs", json=body | {"model": {"uri": model.as_uri()}}).json()["id"]
        for model in (tokenizer, pickled)
    }
    with worker(door.settings):
        for job in jobs.values():
            wait_until(lambda job=job: has_ended(door, job), 120)  # type: ignore[misc]
    error = door.http.get(f"/jobs/{jobs['tokenizer']}").json()["error"]
    assert (error["code"], "auto_map" in error["message"]) == ("invalid_model", True)
    assert door.http.get(f"/jobs/{jobs['both']}").json()["status"] == "succeeded"  # the pickles beside are not opened
    lines = [json.loads(line) for line in (door.settings.state / "worker.log").read_text().splitlines()]
    assert any((line.get("job_id"), line.get("reason")) == (jobs["tokenizer"], "InvalidModel") for line in lines)
    assert not proof.exists()


# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "kind"), [("/jobs", "application/json"), ("/datasets", "application/jsonl")])
def test_a_body_of_two_gigabytes_is_refused_by_count_and_fills_neither_memory_nor_disk(
    door: Door, path: str, kind: str
) -> None:
    port = str(door.http.base_url.port)
    server = wait_for_child(psutil.Process(), lambda command: port in command)
    before = server.memory_info().rss
    answer, sent = send_chunks(door, path, kind, 2 * GIB)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"body_too_large"' in answer
    assert sent < GIB // 4
    assert server.memory_info().rss - before < 200 * MIB
    wait_until(lambda: not list(door.log.parent.glob("taskslim-upload-*")))
    wait_until(lambda: any(line.get("code") == "body_too_large" and line["route"] == path for line in door.lines()))
    with connection_to(door, path, kind, f"Content-Length: {2 * GIB}") as declared:
        assert declared.recv(65536).startswith(b"HTTP/1.1 413 ")


@contextmanager
def connection_to(door: Door, path: str, kind: str, *lines: str) -> Iterator[socket.socket]:
    """A connection over which the head of a POST has gone."""
    url = door.http.base_url
    head = [f"POST {path} HTTP/1.1", f"Host: {url.host}", f"Authorization: {door.http.headers['Authorization']}"]
    head += [f"Content-Type: {kind}", "Connection: close", *lines]
    with socket.create_connection((url.host, url.port or 80), timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        yield connection


def send_chunks(door: Door, path: str, kind: str, size: int) -> tuple[bytes, int]:
    """Send a body of that size without declaring it, until the server answers; its answer, and what was sent."""
    sent, answer = 0, b""
    chunk = f"{MIB:x}\r\n".encode() + b'{"text": "a"}\n'.ljust(MIB) + b"\r\n"
    with connection_to(door, path, kind, "Transfer-Encoding: chunked") as connection:
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


def test_json_without_a_bottom_is_refused(door: Door) -> None:
    for content in (
        b"[" * 1_000_000,
        b'{"task":' * 500_000,
        b'{"tags": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ):
        answer = door.http.post("/jobs", content=content, headers={"Content-Type": "application/json"})
        door.refused(422, "invalid_request", answer)


# --- names and places ------------------------------------------------------------------------------------------------


def finished_job(door: Door, body: dict[str, Any]) -> str:
    """The id of a job that left its files."""
    job: str = door.http.post("/jobs", json=body).json()["id"]
    job_store = JobStore(door.redis)
    finish(job_store.get("stranger", job), job_store, Storage(door.settings.artifacts_url))
    return job


def test_no_name_leads_out_of_its_place(door: Door, body: dict[str, Any]) -> None:
    secret = door.allowed.parent / "secret.jsonl"
    secret.write_text('{"text": "a", "label": "positive"}\n')
    for uri in (
        f"file://{door.allowed}/../secret.jsonl",
        f"file://{door.allowed}/%2e%2e/secret.jsonl",
        secret.as_uri(),
        "file:///etc/passwd",
        "file:///proc/self/environ",
        f"http://{METADATA}/latest/meta-data/",
        f"s3://../{METADATA}/rows.jsonl",
    ):
        answer = door.http.post("/jobs", json=body | {"task": body["task"] | {"calibration": {"uri": uri}}})
        door.refused(answer.status_code, answer.json()["code"], answer)
        assert answer.status_code in (403, 422), uri
    job = finished_job(door, body)
    for name in (
        "../manifest.json",
        "%2e%2e/manifest.json",
        "..%2f..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "model/../x",
    ):
        answer = door.http.get(f"/jobs/{job}/artifacts/{name}")
        assert answer.status_code == 404, name
    for path in ("/pages/..%2fapp.py", "/pages/%2e%2e/settings.py", "/datasets/..%2f..%2fjobs"):
        assert door.http.get(path).status_code == 404, path


def test_a_link_that_was_bent_or_has_expired_opens_nothing(door: Door, body: dict[str, Any]) -> None:
    job = finished_job(door, body)
    link = httpx.URL(door.http.get(f"/jobs/{job}/artifacts").json()["data"][0]["url"])
    assert http.get(link).content == FILES["model/config.json"]
    for bent in (
        link.copy_set_param("expires", str(int(link.params["expires"]) + 1)),
        link.copy_set_param("expires", "1"),
        link.copy_set_param("tenant", "default"),
        link.copy_set_param("signature", link.params["signature"][::-1]),
        link.copy_with(path=link.path.replace("config.json", "model.safetensors")),
    ):
        door.refused(403, "forbidden", http.get(bent))


# --- addresses -------------------------------------------------------------------------------------------------------


def test_no_webhook_is_accepted_for_an_address_of_the_inside(door: Door, body: dict[str, Any]) -> None:
    for url in (f"http://{METADATA}/hook", f"https://{METADATA}/hook", "https://10.0.0.1/hook", "https://[::1]/hook"):
        door.refused(422, "unsafe_url", door.http.post("/jobs", json=body | {"webhook": {"url": url}}))
