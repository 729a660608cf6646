"""Delivery of webhooks: sends each change of a job's status to the URL in its request, at least once and signed.

The script that changes the status (`service.jobs.state_machine`) puts a message in `slim:webhooks` in the same step, so
none is lost. A message is `{tenant}/{job id}/{event id}`; its score is the time at which it is due, in milliseconds.
The process that claims a message defers it by `CLAIM_SECONDS`: if the process dies, another sends the message.
Receivers recognise a repeated message by its `webhook-id`. The log of attempts is
`slim:{tenant}:deliveries:{job id}`.
"""

import asyncio
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import structlog
from pydantic import ValidationError
from redis import Redis, RedisError

from service.contract.answers.job import Event, JobStatus
from service.contract.answers.resources import Delivery, DeliveryOutcome, JobNews, WebhookMessage
from service.contract.errors import UnsafeUrl
from service.contract.request.job_request import JobRequest, Webhook, WebhookEvent
from service.infrastructure.counters import Counters
from service.infrastructure.outbound_http import Response, post
from service.infrastructure.redis_keys import WEBHOOKS, deliveries_key, events_key, job_key
from service.infrastructure.redis_scripts import load_script
from service.jobs.events import parse_events
from service.webhooks.retries import pause_after
from service.webhooks.signing import WebhookSecrets, signed_headers

POLL_SECONDS = 1.0
SEND_SECONDS = 15.0  # for one attempt, from the resolution of the host to the headers of the response
CLAIM_SECONDS = 60
AT_ONCE = 16
THROTTLED = frozenset({429, 502, 503, 504})
GONE = 410
GONE_SECONDS = 7 * 86400  # a URL that answered 410 is not called for so long
MAX_DELIVERIES = 200  # in the log of a job
LOG_SECONDS = 30 * 86400  # the log expires, in case the job is deleted during an attempt

log = structlog.get_logger()


@dataclass(frozen=True)
class Message:
    """A message about one event of a job. `member` is its name in `slim:webhooks`."""

    member: str
    tenant: str
    job_id: str
    event: Event
    type: WebhookEvent
    request: JobRequest
    webhook: Webhook
    request_id: str | None

    @property
    def id(self) -> str:
        """The `webhook-id`, the same on every attempt."""
        return f"{self.job_id}-{self.event.id}"

    @property
    def log_fields(self) -> dict[str, str | int | None]:
        """The fields of each log line about the message, named as those of `JobRecord.log_fields`."""
        return {
            "job_id": self.job_id,
            "tenant": self.tenant,
            "attempt": self.event.attempt,
            "request_id": self.request_id,
        }

    def body(self, base_url: str) -> bytes:
        """The body, the same on every attempt: it is made of the event, which does not change, not of the record."""
        news = JobNews(
            id=self.job_id,
            status=JobStatus(self.event.data["status"]),
            attempt=self.event.attempt,
            tags=self.request.tags,
            error=self.event.data.get("error"),
            url=f"{base_url}/jobs/{self.job_id}",
        )
        return WebhookMessage(type=self.type, timestamp=self.event.at, data=news).model_dump_json().encode()


class Webhooks:
    """The messages that are due, and the log of attempts to deliver them."""

    def __init__(self, redis: Redis, *, base_url: str = "", allowed_hosts: frozenset[str] = frozenset()) -> None:
        self._redis = redis
        self._base_url = base_url.rstrip("/")
        self._allowed_hosts = allowed_hosts
        self._secrets = WebhookSecrets(redis)
        self._counters = Counters(redis)
        self._claim = load_script(redis, "service.webhooks", "claim_messages")

    def deliveries(self, tenant: str, job_id: str) -> list[Delivery]:
        """The log of a job's attempts, oldest first. An entry that cannot be read is logged and left out."""
        lines = cast(list[str], self._redis.lrange(deliveries_key(tenant, job_id), 0, -1))
        found: list[Delivery] = []
        for line in lines:
            try:
                found.append(Delivery.model_validate_json(line))
            except ValidationError:
                log.exception("delivery unreadable", job_id=job_id, tenant=tenant)
        return found

    def enable(self, tenant: str, url: str) -> bool:
        """Call a URL again that answered 410. False where it was not disabled. Messages of that time are not sent."""
        return bool(self._redis.delete(gone_key(tenant, url)))

    def deliver_due(self) -> int:
        """Make an attempt for each of at most AT_ONCE messages that are due, and return their number."""
        members = cast(list[str], self._claim(keys=[WEBHOOKS], args=[AT_ONCE, CLAIM_SECONDS * 1000]))
        messages: list[Message] = []
        for member in members:
            with _skipping(member):
                messages += self._read(member)
        for message, response in zip(messages, asyncio.run(self._send(messages)), strict=True):
            with _skipping(message.member):
                self._record(message, response)
        return len(members)

    def _read(self, member: str) -> list[Message]:
        """The message, or none where the job was deleted or its webhook is for other events."""
        tenant, job_id, event_id = member.split("/")
        request, request_id = cast(
            list[str | None], self._redis.hmget(job_key(tenant, job_id), ["request", "request_id"])
        )
        events = parse_events(cast(Any, self._redis.xrange(events_key(tenant, job_id), event_id, event_id)))
        if request is not None and events:
            asked = JobRequest.model_validate_json(request)
            name = f"job.{events[0].data['status']}"
            if asked.webhook and name in asked.webhook.events:
                event, kind = events[0], WebhookEvent(name)
                return [Message(member, tenant, job_id, event, kind, asked, asked.webhook, request_id)]
        self._redis.zrem(WEBHOOKS, member)
        return []

    async def _send(self, messages: Sequence[Message]) -> list[Response | Exception]:
        return await asyncio.gather(*map(self._attempt, messages))

    async def _attempt(self, message: Message) -> Response | Exception:
        """The response or the error of one attempt. An unexpected error concerns this message alone."""
        try:
            return await self._post(message)
        except RedisError:
            raise
        except Exception as bug:
            log.exception("webhook not sent", **message.log_fields)
            return bug

    async def _post(self, message: Message) -> Response | Exception:
        """The receiver's response, or the error of the request."""
        if await asyncio.to_thread(self._redis.exists, gone_key(message.tenant, message.webhook.url)):
            return Response(GONE, None)
        body = message.body(self._base_url)
        keys = await asyncio.to_thread(self._secrets.in_force, message.tenant)
        headers = signed_headers(message.id, datetime.now(UTC), body, keys)
        try:
            return await post(
                message.webhook.url, body, headers, allowed_hosts=self._allowed_hosts, seconds=SEND_SECONDS
            )
        except (UnsafeUrl, OSError, httpx.HTTPError) as error:
            return error

    def _record(self, message: Message, response: Response | Exception) -> None:
        """Add the attempt to the job's log, and defer the message or remove it."""
        attempts = deliveries_key(message.tenant, message.job_id)
        earlier = [entry for entry in self.deliveries(message.tenant, message.job_id) if entry.message_id == message.id]
        delivery = delivery_of(message, response, attempt=len(earlier) + 1, jitter=random.uniform(-1, 1))
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(attempts, delivery.model_dump_json(exclude_none=True))
            pipe.ltrim(attempts, -MAX_DELIVERIES, -1)
            pipe.expire(attempts, LOG_SECONDS)
            if delivery.outcome is DeliveryOutcome.disabled:
                pipe.set(gone_key(message.tenant, message.webhook.url), "", ex=GONE_SECONDS, nx=True)
            if delivery.next_at is None:
                pipe.zrem(WEBHOOKS, message.member)
            else:
                pipe.zadd(WEBHOOKS, {message.member: int(delivery.next_at.timestamp() * 1000)})
            pipe.execute()
        self._counters.count("slim_webhook_deliveries", delivery.outcome)
        log.info("webhook", outcome=delivery.outcome, status=delivery.status, **message.log_fields)


@contextmanager
def _skipping(member: str) -> Iterator[None]:
    """Log an error that concerns one message, such as a record that cannot be read, and go on with the others.

    The message is due again after `CLAIM_SECONDS`. Errors of Redis concern all messages and are raised.
    """
    try:
        yield
    except RedisError:
        raise
    except Exception:
        log.exception("webhook skipped", message=member)


def gone_key(tenant: str, url: str) -> str:
    """The key in Redis that marks a webhook URL that answered 410."""
    return f"slim:{tenant}:webhook-gone:{hashlib.sha256(url.encode()).hexdigest()}"


def delivery_of(message: Message, response: Response | Exception, *, attempt: int, jitter: float) -> Delivery:
    """The log entry of an attempt: its outcome, and when the next attempt is due."""
    now = datetime.now(UTC)
    status = response.status if isinstance(response, Response) else None
    pause: timedelta | None = None
    if status is not None and 200 <= status < 300:
        outcome = DeliveryOutcome.delivered
    elif status == GONE:
        outcome = DeliveryOutcome.disabled
    elif isinstance(response, UnsafeUrl):
        outcome = DeliveryOutcome.refused
    else:
        asked = response.retry_after if isinstance(response, Response) and status in THROTTLED else None
        pause = pause_after(attempt, asked, jitter)
        outcome = DeliveryOutcome.retrying if pause else DeliveryOutcome.abandoned
    return Delivery(
        message_id=message.id,
        type=message.type,
        at=now,
        attempt=attempt,
        outcome=outcome,
        status=status,
        error=reason_of(response),
        next_at=now + pause if pause else None,
    )


def reason_of(response: Response | Exception) -> str | None:
    """Why there is no response; without the URL, which may contain a secret."""
    if isinstance(response, Response):
        return None
    return response.message if isinstance(response, UnsafeUrl) else f"no response: {type(response).__name__}"
