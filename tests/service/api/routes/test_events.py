"""The route of a job's events: pages, and a stream that ends with the job."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api.routes import events
from service.contract.answers.job import Event, Progress, Stage
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support import http
from tests.support.api_server import serving
from tests.support.finished_jobs import finish
from tests.support.waiting import wait_until

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def server(settings: Settings) -> Iterator[str]:
    """A client of the API over a socket, where a stream is received piece by piece."""
    with serving(settings) as url:
        yield url.rstrip("/")


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        if line.startswith("data: "):
            yield Event.model_validate_json(line.removeprefix("data: "))


def test_pages_of_events_are_consecutive(client: TestClient, body: dict[str, Any], job_store: JobStore) -> None:
    job = client.post("/jobs", json=body).json()["id"]
    lease = job_store.lease(DEFAULT_TENANT, job, 1, "the test")
    for stage in Stage:
        job_store.set_stage(lease, stage, Progress(fraction=0))
    whole = client.get(f"/jobs/{job}/events").json()
    assert not whole["has_more"]
    seen: list[dict[str, Any]] = []
    page = client.get(f"/jobs/{job}/events", params={"limit": 5}).json()
    while page["has_more"]:
        seen += page["data"]
        page = client.get(f"/jobs/{job}/events", params={"limit": 5, "after": page["next_cursor"]}).json()
    assert seen + page["data"] == whole["data"]
    assert [event["data"]["stage"] for event in whole["data"] if event["type"] == "stage"] == list(Stage)


def test_invalid_event_id_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    job = client.post("/jobs", json=body).json()["id"]
    for headers in ({}, STREAM):
        answer = client.get(f"/jobs/{job}/events", params={"after": "yesterday"}, headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, "after")


def test_stream_sends_new_events_and_closes_with_the_job(
    server: str, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = http.post(f"{server}/jobs", json=body).json()["id"]
    with http.stream("GET", f"{server}/jobs/{job}/events", headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        events = events_of(answer.iter_lines())
        assert next(events).data["status"] == "queued"
        finish(job_store.get(DEFAULT_TENANT, job), job_store, storage)
        rest = list(events)
    assert rest[-1].data["status"] == "succeeded"


def test_stream_over_the_tenant_limit_is_refused_until_one_closes(settings: Settings, body: dict[str, Any]) -> None:
    with serving(settings.model_copy(update={"max_streams": 2})) as server:
        job = http.post(f"{server}jobs", json=body).json()["id"]
        url = f"{server}jobs/{job}/events"
        with http.stream("GET", url, headers=STREAM) as first, http.stream("GET", url, headers=STREAM) as second:
            assert (first.status_code, second.status_code) == (200, 200)
            refused = http.get(url, headers=STREAM)
            assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
            assert int(refused.headers["retry-after"]) > 0
            assert http.get(url).status_code == 200
        wait_until(lambda: opens(url))


def opens(url: str) -> bool:
    with http.stream("GET", url, headers=STREAM) as answer:
        return answer.status_code == 200


def test_wait_over_the_stream_limit_returns_the_job_at_once(settings: Settings, body: dict[str, Any]) -> None:
    with serving(settings.model_copy(update={"max_streams": 1})) as server:
        job = http.post(f"{server}jobs", json=body, headers={"Prefer": "wait=1"})
        assert (job.status_code, job.headers["preference-applied"]) == (202, "wait=1")
        url = f"{server}jobs/{job.json()['id']}"
        with http.stream("GET", f"{url}/events", headers=STREAM):
            for answer in (
                http.post(f"{server}jobs", json=body, headers={"Prefer": "wait=30"}),
                http.get(url, headers={"Prefer": "wait=30"}),
            ):
                assert (answer.is_success, answer.json()["status"]) == (True, "queued")
                assert "preference-applied" not in answer.headers
        assert len(http.get(f"{server}jobs").json()["data"]) == 2


def test_process_holds_more_streams_than_the_default_redis_pool(settings: Settings, body: dict[str, Any]) -> None:
    many = 110
    with serving(settings.model_copy(update={"max_streams": many})) as server, ExitStack() as stack:
        job = http.post(f"{server}jobs", json=body).json()["id"]
        client = stack.enter_context(http.Client(limits=httpx.Limits(max_connections=None), headers=STREAM))
        streams = []
        for _ in range(many):
            answer = stack.enter_context(client.stream("GET", f"{server}jobs/{job}/events"))
            streams.append(events_of(answer.iter_lines()))
            assert next(streams[-1]).data["status"] == "queued"
        client.post(f"{server}jobs/{job}/cancel")
        for events in streams:
            assert next(events).data["status"] == "cancelled"


@pytest.mark.parametrize("after", ["{milliseconds}", "9999999999999-0", "9999999999999999999-1"])
def test_stream_of_an_ended_job_closes_after_any_last_event_id(
    server: str, body: dict[str, Any], job_store: JobStore, storage: Storage, after: str
) -> None:
    job = http.post(f"{server}/jobs", json=body).json()["id"]
    finish(job_store.get(DEFAULT_TENANT, job), job_store, storage)
    end = job_store.events(DEFAULT_TENANT, job)[-1].id
    headers = STREAM | {"Last-Event-ID": after.format(milliseconds=end.partition("-")[0])}
    answer = http.get(f"{server}/jobs/{job}/events", headers=headers)
    assert [event.id for event in events_of(answer.iter_lines())] in ([], [end])


def test_idle_stream_sends_comments(server: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    job = http.post(f"{server}/jobs", json=body).json()["id"]
    with http.stream("GET", f"{server}/jobs/{job}/events", headers=STREAM) as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert next(comments)
        assert next(comments)


def test_stream_resumes_after_the_last_event_id(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = client.post("/jobs", json=body).json()["id"]
    finish(job_store.get(DEFAULT_TENANT, job), job_store, storage)
    whole = list(events_of(client.get(f"/jobs/{job}/events", headers=STREAM).iter_lines()))
    headers = STREAM | {"Last-Event-ID": whole[0].id}
    assert list(events_of(client.get(f"/jobs/{job}/events", headers=headers).iter_lines())) == whole[1:]
    headers = STREAM | {"Last-Event-ID": whole[-1].id}
    assert list(events_of(client.get(f"/jobs/{job}/events", headers=headers).iter_lines())) == []
