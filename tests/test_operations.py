"""Logs, metrics and webhooks of a deployment of real processes with an API key, while a job runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from standardwebhooks import Webhook

from service.settings import Settings
from tests.support.api_process import api
from tests.support.jobs import checkpoint, request, worker
from tests.support.waiting import wait_until
from tests.support.webhook_receiver import Receiver, receiving

SECRET = "5ec2e7" * 8
KEY = f"slim_test_first_{SECRET}"
TOKEN = "p1anted70ken"


@dataclass(frozen=True)
class Observations:
    """What is observed after one job: its last state, webhook calls, metrics, the webhook secret, the log lines."""

    job: dict[str, Any]
    receiver: Receiver
    deliveries: list[dict[str, Any]]
    metrics: dict[str, float]
    webhook_secret: str
    lines: list[dict[str, Any]]
    log: str


@pytest.fixture
def observations(settings: Settings, redis: Redis, tmp_path: Path) -> Observations:
    body = request(checkpoint(tmp_path / "model"), 60).model_dump(mode="json", exclude_none=True)
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "request-of-the-test"}
    with receiving() as receiver:
        variables = {
            "SLIM_API_KEY": KEY,
            "SLIM_WEBHOOK_HOSTS": next(iter(receiver.allowed)),
            "SLIM_LOCAL_ROOTS": str(tmp_path),
        }
        log = tmp_path / "api.log"
        with (
            api(settings, log, **variables) as url,
            worker(settings),
            httpx.Client(base_url=url, headers=headers, timeout=60) as http,
        ):
            webhook = {"url": f"{receiver.url}?token={TOKEN}", "events": ["job.running", "job.succeeded"]}
            answer = http.post("/jobs", json=body | {"webhook": webhook})
            assert answer.status_code == 202, answer.text
            job = answer.json()
            waiting = {"Prefer": "wait=30"}  # polling without it meets the limit of requests
            wait_until(lambda: http.get(f"/jobs/{job['id']}", headers=waiting).json()["finished_at"])
            for line in (
                'slim_webhook_deliveries_total{outcome="delivered"} 2.0',
                "slim_params_removed_ratio_count 1.0",
            ):
                wait_until(lambda line=line: line in http.get("/metrics").text)  # type: ignore[misc]
            samples = text_string_to_metric_families(http.get("/metrics").text)
            job = http.get(f"/jobs/{job['id']}").json()
            deliveries = http.get(f"/jobs/{job['id']}/deliveries").json()["data"]
            secret = http.get("/webhooks/secret").json()["secret"]
    text = log.read_text() + (settings.state / "worker.log").read_text()
    return Observations(
        job=job,
        receiver=receiver,
        deliveries=deliveries,
        metrics={f"{s.name}{s.labels or ''}": s.value for family in samples for s in family.samples},
        webhook_secret=secret,
        lines=[json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")],
        log=text,
    )


def test_job_is_logged_measured_and_announced_without_a_secret(observations: Observations) -> None:
    job, metrics = observations.job, observations.metrics
    assert job["status"] == "succeeded", job["error"]
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"]
    assert job["expires_at"] > job["finished_at"]

    told = [
        Webhook(observations.webhook_secret).verify(call.body.decode(), call.headers)
        for call in observations.receiver.calls
    ]
    assert sorted(message["type"] for message in told) == ["job.running", "job.succeeded"]
    assert {message["data"]["id"] for message in told} == {job["id"]}
    assert [entry["outcome"] for entry in observations.deliveries] == ["delivered"] * 2

    assert metrics["slim_jobs{'status': 'succeeded'}"] == 1
    assert metrics["slim_job_stage_duration_seconds_count{'stage': 'attribute'}"] == 1
    assert metrics["slim_params_removed_ratio_count"] == 1
    assert metrics["slim_artifact_bytes_total"] > 0
    assert metrics["slim_workers{'state': 'live'}"] == 1
    assert metrics["slim_webhook_deliveries_total{'outcome': 'delivered'}"] == 2

    for secret in (SECRET, TOKEN, observations.webhook_secret.removeprefix("whsec_")):
        assert secret not in observations.log
    assert all({"ts", "level", "event", "process"} <= line.keys() for line in observations.lines)
    about = [line for line in observations.lines if line.get("job_id") == job["id"]]
    assert {line["process"] for line in about} == {"api", "worker"}
    assert all(line["tenant"] == "default" for line in about)
    known = [line for line in about if line.get("request_id") == "request-of-the-test"]
    assert {line["process"] for line in known} == {"api", "worker"}
    assert {line["attempt"] for line in known if line["process"] == "worker"} == {1}
