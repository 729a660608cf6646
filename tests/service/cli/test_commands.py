"""The command line with a real server: its output and its exit codes."""

import json
from functools import partial
from pathlib import Path

import psutil
import pytest
from redis import Redis

from service.cli.commands import keys
from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.redis_client import connect
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ApiKeys
from tests.support.api_process import api
from tests.support.command_line import Taskslim, when_submitted
from tests.support.compared_jobs import compared_job
from tests.support.finished_jobs import FILES, fail, finish
from tests.support.score_sets import measured, safetensors


def test_submit_prints_the_id_and_show_the_job(taskslim: Taskslim, request_file: Path) -> None:
    submitted = taskslim("submit", request_file)
    assert submitted.code == 0
    job_id = submitted.out.strip()
    shown = json.loads(taskslim("show", job_id).out)
    assert (shown["id"], shown["status"]) == (job_id, "queued")
    listed = taskslim("list").out
    assert job_id in listed
    assert "file:///" in listed
    assert job_id not in taskslim("list", "--status", "failed").out
    assert taskslim("cancel", job_id).out.strip() == "cancelled"


def test_watch_prints_the_result_of_a_succeeded_job(
    taskslim: Taskslim, request_file: Path, job_store: JobStore, storage: Storage
) -> None:
    thread = when_submitted(job_store, lambda record: finish(record, job_store, storage))
    watched = taskslim("submit", request_file, "--watch")
    thread.join()
    assert watched.code == 0
    assert len(watched.out.split()) == 1
    assert "parameters" in watched.err


def test_watch_of_a_failed_job_exits_with_1_and_prints_the_error(
    taskslim: Taskslim, request_file: Path, job_store: JobStore
) -> None:
    thread = when_submitted(job_store, lambda record: fail(record, job_store, "invalid_data", "line 3 has no 'text'"))
    watched = taskslim("submit", request_file, "--watch")
    thread.join()
    assert watched.code == 1
    assert "line 3 has no 'text' (invalid_data)" in watched.err


def test_refused_request_exits_with_1_and_prints_the_problem(taskslim: Taskslim, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"target": {"ratio": 2}}')
    refused = taskslim("submit", path)
    assert refused.code == 1
    assert "target.ratio" in refused.err
    path.write_text("{")
    assert "is not JSON" in taskslim("submit", path).err
    assert taskslim("show", "nothing").code == 1


def test_compare_prints_the_models_with_the_frontier(
    taskslim: Taskslim, job_store: JobStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ids = [compared_job(job_store, storage, 7, 0.45), compared_job(job_store, storage, 5, 0.48)]
    compared = taskslim("compare", *ids)
    assert compared.code == 0
    lines = {line.split()[0]: line.replace("\N{NO-BREAK SPACE}", " ") for line in compared.out.splitlines()[2:]}
    assert [*lines] == ["dense", *ids]
    assert "7 " in lines[ids[0]]
    assert "5*" in lines[ids[1]]
    assert "48.0 %" in lines[ids[1]]
    shown = json.loads(taskslim("compare", *ids, "--json").out)
    assert [model["job_id"] for model in shown["models"]] == ids
    unknown = taskslim("compare", ids[0], "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX")
    assert (unknown.code, "not_found" in unknown.err) == (1, True)


def test_unreachable_server_is_named(taskslim: Taskslim) -> None:
    away = taskslim("list", "--url", "http://127.0.0.1:9")
    assert away.code == 1
    assert "no answer from http://127.0.0.1:9" in away.err


def test_key_of_the_environment_is_sent(taskslim: Taskslim, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = ApiKeys(redis).create()
    monkeypatch.setenv("SLIM_API_KEY", key)
    assert taskslim("list").code == 0


@pytest.fixture
def finished(taskslim: Taskslim, request_file: Path, job_store: JobStore, storage: Storage) -> str:
    """The id of a job that succeeded."""
    job_id = taskslim("submit", request_file).out.strip()
    finish(job_store.get(DEFAULT_TENANT, job_id), job_store, storage)
    return job_id


def downloaded(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_download_writes_every_file_unchanged(taskslim: Taskslim, finished: str, tmp_path: Path) -> None:
    assert taskslim("download", finished, tmp_path / "out").code == 0
    assert downloaded(tmp_path / "out") == FILES


def test_download_continues_after_an_interruption_and_detects_damage(
    taskslim: Taskslim, finished: str, tmp_path: Path
) -> None:
    weights = FILES["model/model.safetensors"]
    partial = tmp_path / "out" / "model" / "model.safetensors.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(weights[:1000])
    assert taskslim("download", finished, tmp_path / "out").code == 0
    assert downloaded(tmp_path / "out") == FILES

    partial.with_suffix("").unlink()
    partial.write_bytes(b"x" * 1000)
    damaged = taskslim("download", finished, tmp_path / "out")
    assert damaged.code == 1
    assert "SHA-256" in damaged.err
    assert taskslim("download", finished, tmp_path / "out").code == 0
    assert downloaded(tmp_path / "out") == FILES


def test_job_without_files_cannot_be_downloaded(taskslim: Taskslim, request_file: Path, tmp_path: Path) -> None:
    job_id = taskslim("submit", request_file).out.strip()
    refused = taskslim("download", job_id, tmp_path / "out")
    assert refused.code == 1
    assert "its status is queued" in refused.err


def test_api_command_needs_a_redis(taskslim: Taskslim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIM_REDIS_URL", raising=False)
    assert "SLIM_REDIS_URL" in taskslim("api").err


def test_redis_that_is_away_is_named_without_a_traceback(taskslim: Taskslim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_REDIS_URL", "redis://:secret@127.0.0.1:9")
    monkeypatch.setattr(keys, "connect", partial(connect, retries=0))
    away = taskslim("keys", "list")
    assert away.code == 1
    assert "127.0.0.1:9" in away.err
    assert "SLIM_REDIS_URL" in away.err
    assert "secret" not in away.err
    assert "Traceback" not in away.err


@pytest.mark.parametrize(("has_key", "address"), [(False, "127.0.0.1"), (True, "0.0.0.0")])
def test_api_listens_on_loopback_only_until_there_is_a_key(
    redis: Redis, settings: Settings, tmp_path: Path, has_key: bool, address: str
) -> None:
    if has_key:
        ApiKeys(redis).create()
    with api(settings, tmp_path / "log", "--host", "0.0.0.0") as url:
        port = int(url.rpartition(":")[2])
        sockets = [found for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
        listening = {found.laddr.ip for found in sockets if found.laddr and found.laddr.port == port}
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    warned = [line["requested"] for line in lines if "no API key" in line["event"]]
    assert (listening, warned) == ({address}, [] if has_key else ["0.0.0.0"])
    assert f"http://{address}:{port}" in [line.get("url") for line in lines]


def test_openapi_prints_the_document(taskslim: Taskslim) -> None:
    assert json.loads(taskslim("openapi").out)["info"]["title"] == "Taskslim"


def test_scores_are_listed_downloaded_and_deleted(
    taskslim: Taskslim, redis: Redis, storage: Storage, tmp_path: Path
) -> None:
    content = safetensors()
    made = measured(content)
    ScoreSets(redis, storage).add(DEFAULT_TENANT, made, content, days=1)
    assert made.digest in taskslim("scores", "list").out
    assert taskslim("scores", "download", made.digest, tmp_path / "scores.safetensors").code == 0
    assert (tmp_path / "scores.safetensors").read_bytes() == content
    assert taskslim("scores", "delete", made.digest).code == 0
    assert made.digest not in taskslim("scores", "list").out
    gone = taskslim("scores", "delete", made.digest)
    assert (gone.code, "not_found" in gone.err) == (1, True)
