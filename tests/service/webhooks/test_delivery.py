"""Webhooks: each message is delivered and signed, and the job's log has each attempt."""

import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import structlog
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from service.contract.answers.job import JobError, JobStatus
from service.contract.answers.resources import Delivery, DeliveryOutcome
from service.contract.request.job_request import JobRequest, WebhookEvent
from service.infrastructure.background_threads import repeating
from service.infrastructure.redis_keys import WEBHOOKS, deliveries_key, events_key, job_key
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.webhooks.delivery import Webhooks, gone_key
from service.webhooks.retries import PAUSES, pause_after
from service.webhooks.signing import PREFIX, WebhookSecrets, new_secret, signed_headers
from tests.support.waiting import wait_until
from tests.support.webhook_receiver import Receiver, receiving

TENANT = "search"


def request_for(url: str | None, *events: WebhookEvent) -> JobRequest:
    webhook = url and {"url": url, **({"events": events} if events else {})}
    return JobRequest.model_validate(
        {
            "model": {"uri": "file:///models/one"},
            "task": {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}},
            "target": {"ratio": 0.3},
            "tags": {"team": "search"},
            "webhook": webhook or None,
        }
    )


def failed_job(redis: Redis, url: str | None, *events: WebhookEvent) -> JobRecord:
    job_store = JobStore(redis)
    record = job_store.accept(new_record(request_for(url, *events), tenant=TENANT))
    job_store.fail(job_store.lease(TENANT, record.id, 1, "worker-1"), JobError(code="invalid_data", message="line 3"))
    return job_store.get(TENANT, record.id)


def sender(redis: Redis, receiver: Receiver) -> Webhooks:
    return Webhooks(redis, base_url="https://slim.example/", allowed_hosts=receiver.allowed)


def make_due(redis: Redis) -> None:
    """Make all deferred messages due now."""
    for member in cast(list[str], redis.zrange(WEBHOOKS, 0, -1)):
        redis.zadd(WEBHOOKS, {member: 0})


def log(redis: Redis, job: JobRecord) -> list[Delivery]:
    return Webhooks(redis).deliveries(TENANT, job.id)


@pytest.mark.parametrize("damage", ["record", "event", "log", "member"])
def test_unreadable_record_does_not_stop_other_messages(redis: Redis, damage: str) -> None:
    with receiving() as receiver:
        broken, sound = failed_job(redis, receiver.url), failed_job(redis, receiver.url)
        if damage == "record":
            redis.hset(job_key(TENANT, broken.id), "request", '{"model": "of another version"}')
        elif damage == "event":
            redis.delete(events_key(TENANT, broken.id))
            redis.xadd(events_key(TENANT, broken.id), {"type": "status", "attempt": 1, "data": "{}"}, id="1-1")
            redis.zadd(WEBHOOKS, {f"{TENANT}/{broken.id}/1-1": 0})
        elif damage == "log":
            redis.rpush(deliveries_key(TENANT, broken.id), "{}")
        else:
            redis.zadd(WEBHOOKS, {"nonsense": 0})
        with repeating("webhooks", sender(redis, receiver).deliver_due, 0.02):
            wait_until(lambda: log(redis, sound))
    assert [delivery.outcome for delivery in log(redis, sound)] == [DeliveryOutcome.delivered]
    delivered = [delivery.outcome for delivery in log(redis, broken)]
    assert delivered == ([] if damage in ("record", "event") else [DeliveryOutcome.delivered])


def test_message_is_signed_by_standard_webhooks(redis: Redis) -> None:
    with receiving() as receiver:
        job = failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
    (call,) = receiver.calls
    told = Verifier(WebhookSecrets(redis).current(TENANT)).verify(call.body.decode(), call.headers)
    assert told["type"] == "job.failed"
    assert told["data"]["id"] == job.id
    assert told["data"]["status"] == "failed"
    assert told["data"]["error"]["code"] == "invalid_data"
    assert told["data"]["tags"] == {"team": "search"}
    assert told["data"]["url"] == f"https://slim.example/jobs/{job.id}"
    assert len(call.body) < 20_000
    with pytest.raises(WebhookVerificationError):
        Verifier(new_secret()).verify(call.body.decode(), call.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(WebhookSecrets(redis).current(TENANT)).verify(call.body.decode() + " ", call.headers)


def test_signature_is_that_of_a_known_message() -> None:
    """The example of Svix, whose signatures Standard Webhooks took over."""
    sent_at = datetime.fromtimestamp(1614265330, UTC)
    key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", sent_at, b'{"test": 2432232314}', [key])
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_replayed_message_is_refused_by_its_time(redis: Redis) -> None:
    with receiving() as receiver:
        failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
    (call,) = receiver.calls
    replayed = call.headers | {"webhook-timestamp": str(int(call.headers["webhook-timestamp"]) - 3600)}
    with pytest.raises(WebhookVerificationError):
        Verifier(WebhookSecrets(redis).current(TENANT)).verify(call.body.decode(), replayed)


def test_old_and_new_secret_verify_after_a_rotation(redis: Redis) -> None:
    secrets = WebhookSecrets(redis)
    old = secrets.current(TENANT)
    new = secrets.rotate(TENANT)
    assert new != old
    assert new.startswith(PREFIX)
    with receiving() as receiver:
        failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
    (call,) = receiver.calls
    for secret in (old, new):
        Verifier(secret).verify(call.body.decode(), call.headers)


def test_failed_attempt_is_repeated_with_the_same_message(redis: Redis) -> None:
    with receiving((500, {}), (200, {})) as receiver:
        job = failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
        assert sender(redis, receiver).deliver_due() == 0
        make_due(redis)
        sender(redis, receiver).deliver_due()
    first, second = receiver.calls
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [(entry.attempt, entry.status, entry.outcome) for entry in log(redis, job)] == [
        (1, 500, DeliveryOutcome.retrying),
        (2, 200, DeliveryOutcome.delivered),
    ]
    assert not redis.exists(WEBHOOKS)


def test_message_is_abandoned_after_the_last_attempt(redis: Redis) -> None:
    with receiving((500, {})) as receiver:
        job = failed_job(redis, receiver.url)
        for _ in range(len(PAUSES) + 5):
            make_due(redis)
            sender(redis, receiver).deliver_due()
    assert len(receiver.calls) == len(PAUSES) + 1
    assert log(redis, job)[-1].outcome is DeliveryOutcome.abandoned
    assert not redis.exists(WEBHOOKS)


def test_receiver_that_answers_410_is_disabled(redis: Redis) -> None:
    with receiving((410, {}), (200, {})) as receiver:
        for _ in range(2):
            job = failed_job(redis, receiver.url)
            sender(redis, receiver).deliver_due()
    assert len(receiver.calls) == 1
    assert log(redis, job)[-1].outcome is DeliveryOutcome.disabled
    assert redis.ttl(gone_key(TENANT, receiver.url)) > 0
    assert not redis.exists(WEBHOOKS)


def test_disabled_receiver_is_called_again_after_it_was_enabled(redis: Redis, client: TestClient) -> None:
    with receiving((410, {}), (200, {})) as receiver:
        failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
        assert not sender(redis, receiver).enable("ads", receiver.url)
        assert sender(redis, receiver).enable(TENANT, receiver.url)
        job = failed_job(redis, receiver.url)
        sender(redis, receiver).deliver_due()
    assert len(receiver.calls) == 2
    assert log(redis, job)[-1].outcome is DeliveryOutcome.delivered
    redis.set(gone_key("default", receiver.url), "")
    assert client.post("/webhooks/enable", json={"url": receiver.url}).status_code == 204
    assert not redis.exists(gone_key("default", receiver.url))


def test_private_address_is_refused_without_retries(redis: Redis) -> None:
    with receiving() as receiver:
        job = failed_job(redis, f"https://127.0.0.1:{receiver.port}/hook")
        Webhooks(redis).deliver_due()
    assert not receiver.calls
    (entry,) = log(redis, job)
    assert entry.outcome is DeliveryOutcome.refused
    assert not redis.exists(WEBHOOKS)


def test_host_that_resolves_to_the_metadata_address_is_refused(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    job = failed_job(redis, "https://rebound.example/hook")
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with structlog.testing.capture_logs() as lines:
        Webhooks(redis).deliver_due()
    assert [entry.outcome for entry in log(redis, job)] == ["refused"]
    assert [(line["event"], line["outcome"]) for line in lines] == [("webhook", "refused")]


def test_log_line_has_job_tenant_attempt_and_request(redis: Redis) -> None:
    with receiving() as receiver:
        record = new_record(request_for(receiver.url, WebhookEvent.job_running), tenant=TENANT)
        made = JobStore(redis).accept(record.model_copy(update={"request_id": "r-1"}))
        JobStore(redis).lease(TENANT, made.id, 1, "worker-1")
        with structlog.testing.capture_logs() as lines:
            sender(redis, receiver).deliver_due()
    (line,) = lines
    assert {"job_id": made.id, "tenant": TENANT, "attempt": 1, "request_id": "r-1"}.items() <= line.items()


def test_redirect_to_a_private_address_is_not_followed(redis: Redis) -> None:
    with receiving() as inside, receiving((302, {"location": inside.url})) as outside:
        job = failed_job(redis, outside.url)
        with structlog.testing.capture_logs() as lines:
            sender(redis, outside).deliver_due()
    assert [(entry.status, entry.outcome) for entry in log(redis, job)] == [(302, "retrying")]
    assert [line["status"] for line in lines] == [302]
    assert (len(outside.calls), inside.calls) == (1, [])


def test_unreachable_receiver_is_tried_again(redis: Redis) -> None:
    with receiving() as receiver:
        pass
    job = failed_job(redis, receiver.url)
    sender(redis, receiver).deliver_due()
    (entry,) = log(redis, job)
    assert (entry.outcome, entry.status) == (DeliveryOutcome.retrying, None)
    assert receiver.url not in entry.model_dump_json()


def test_only_requested_events_are_sent(redis: Redis) -> None:
    with receiving() as receiver:
        failed_job(redis, receiver.url, WebhookEvent.job_running)
        failed_job(redis, receiver.url, WebhookEvent.job_succeeded)
        failed_job(redis, None)
        sender(redis, receiver).deliver_due()
    assert [json.loads(call.body)["type"] for call in receiver.calls] == ["job.running"]
    assert not redis.exists(WEBHOOKS)


def test_message_of_a_dead_sender_is_sent_by_another(redis: Redis) -> None:
    with receiving() as receiver:
        job = failed_job(redis, receiver.url)
        dying = sender(redis, receiver)
        dying._claim(keys=[WEBHOOKS], args=[16, 1])  # taken, and never sent
        wait_until(lambda: sender(redis, receiver).deliver_due() > 0)
    assert len(receiver.calls) == 1
    assert log(redis, job)[-1].outcome is DeliveryOutcome.delivered


def test_two_senders_never_send_the_same_message(redis: Redis) -> None:
    with receiving() as receiver:
        for _ in range(40):
            failed_job(redis, receiver.url)
        first, second = (repeating(name, sender(redis, receiver).deliver_due, 0.02) for name in ("one", "two"))
        with first, second:
            wait_until(lambda: not redis.exists(WEBHOOKS))
    ids = [call.headers["webhook-id"] for call in receiver.calls]
    assert len(ids) == len(set(ids)) == 40


def test_deleted_job_sends_no_messages(redis: Redis) -> None:
    with receiving() as receiver:
        job = failed_job(redis, receiver.url)
        JobStore(redis).remove(TENANT, job.id)
        sender(redis, receiver).deliver_due()
    assert not receiver.calls
    assert not redis.exists(WEBHOOKS)


def test_cancelled_queued_job_sends_a_message(redis: Redis) -> None:
    with receiving() as receiver:
        record = JobStore(redis).accept(new_record(request_for(receiver.url), tenant=TENANT))
        assert JobStore(redis).cancel(TENANT, record.id).status is JobStatus.cancelled
        sender(redis, receiver).deliver_due()
    assert [json.loads(call.body)["type"] for call in receiver.calls] == ["job.cancelled"]


@given(st.integers(1, len(PAUSES)), st.floats(-1, 1), st.sampled_from([None, "7", "100000", "soon", "-1", "9" * 40]))
def test_pauses_follow_the_schedule_and_retry_after(attempt: int, jitter: float, retry_after: str | None) -> None:
    pause = pause_after(attempt, retry_after, jitter)
    assert pause is not None
    assert pause >= PAUSES[attempt - 1] * 0.8
    if retry_after == "100000":
        assert pause >= timedelta(days=1)
    elif retry_after != "7":
        assert pause <= PAUSES[attempt - 1] * 1.2


def test_last_attempt_has_no_pause() -> None:
    assert pause_after(len(PAUSES) + 1, None, 0) is None
