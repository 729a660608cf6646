"""Sends news of jobs to the URLs that their requests name: at least once, signed, with patience.

Every change of status puts a message in `slim:webhooks` in the same run of the script that changes the record
(`service.jobs.state_machine`), so none is lost. A message is `{tenant}/{job id}/{event id}`, its score the time when it
is due in Redis' milliseconds. Whoever takes it puts its time off by `CLAIM_SECONDS`: if the process dies, another sends
it. Receivers tell repeats by `webhook-id`. The log of attempts is `slim:{tenant}:deliveries:{job id}`.
"""

import asyncio
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

from service.contract.errors import UnsafeUrl
from service.contract.job import Event, JobStatus
from service.contract.request import JobRequest, Webhook, WebhookEvent
from service.contract.resources import Delivery, DeliveryOutcome, JobNews, WebhookMessage
from service.infrastructure.counters import Counters
from service.infrastructure.outbound_http import Response, post
from service.infrastructure.redis_keys import WEBHOOKS, deliveries_key, events_key, gone_key, job_key
from service.infrastructure.redis_scripts import load_script
from service.jobs.events import parse_events
from service.webhooks.retries import pause_after
from service.webhooks.signing import WebhookSecrets, signed_headers

POLL_SECONDS = 1.0
SEND_SECONDS = 15.0  # for one attempt, from the name's resolution to the answer's headers
CLAIM_SECONDS = 60
AT_ONCE = 16
THROTTLED = frozenset({429, 502, 503, 504})
GONE = 410
GONE_SECONDS = 7 * 86400  # a URL that answered 410 is left alone for so long
MAX_DELIVERIES = 200  # entries of a job's log
LOG_SECONDS = 30 * 86400  # in case the job is deleted while an attempt is under way

log = structlog.get_logger()


@dataclass(frozen=True)
class Message:
    """One piece of news for one receiver. `member` is its place in the queue."""

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
        return f"{self.job_id}-{self.event.id}"

    @property
    def log_fields(self) -> dict[str, str | int | None]:
        """As those of the job's record, at the attempt that there is news of."""
        return {
            "job_id": self.job_id,
            "tenant": self.tenant,
            "attempt": self.event.attempt,
            "request_id": self.request_id,
        }

    def body(self, base_url: str) -> bytes:
        """The same bytes on every attempt: made of the event, which does not change, not of the record, which does."""
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
    """The queue of messages and the log of attempts."""

    def __init__(self, redis: Redis, *, base_url: str = "", allowed_hosts: frozenset[str] = frozenset()) -> None:
        self._redis = redis
        self._base_url = base_url.rstrip("/")
        self._allowed_hosts = allowed_hosts
        self._secrets = WebhookSecrets(redis)
        self._counters = Counters(redis)
        self._claim = load_script(redis, "service.webhooks", "claim_messages")

    def deliveries(self, tenant: str, job_id: str) -> list[Delivery]:
        """Every attempt made for a job, oldest first. One that cannot be read is logged and left out."""
        lines = cast(list[str], self._redis.lrange(deliveries_key(tenant, job_id), 0, -1))
        found: list[Delivery] = []
        for line in lines:
            try:
                found.append(Delivery.model_validate_json(line))
            except ValidationError:
                log.exception("delivery unreadable", job_id=job_id, tenant=tenant)
        return found

    def enable(self, tenant: str, url: str) -> bool:
        """Call a URL again that answered 410; whether it was off. What was due meanwhile is not sent any more."""
        return bool(self._redis.delete(gone_key(tenant, url)))

    def deliver_due(self) -> int:
        """Make one attempt for each message that is due, a few at once; how many there were."""
        members = cast(list[str], self._claim(keys=[WEBHOOKS], args=[AT_ONCE, CLAIM_SECONDS * 1000]))
        messages: list[Message] = []
        for member in members:
            with _skipping(member):
                messages += self._read(member)
        for message, answer in zip(messages, asyncio.run(self._send(messages)), strict=True):
            with _skipping(message.member):
                self._settle(message, answer)
        return len(members)

    def _read(self, member: str) -> list[Message]:
        """The message, or none where nobody waits for it: the job is gone, or the receiver wants other events."""
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
        """What came of one attempt. A bug is that of its message alone, which has as many attempts as any."""
        try:
            return await self._post(message)
        except RedisError:
            raise
        except Exception as bug:
            log.exception("webhook not sent", **message.log_fields)
            return bug

    async def _post(self, message: Message) -> Response | Exception:
        """The receiver's answer, or why there was none."""
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

    def _settle(self, message: Message, answer: Response | Exception) -> None:
        """Write the attempt to the job's log, and put the message off or out of the queue."""
        attempts = deliveries_key(message.tenant, message.job_id)
        earlier = [entry for entry in self.deliveries(message.tenant, message.job_id) if entry.message_id == message.id]
        delivery = judge(message, answer, attempt=len(earlier) + 1, jitter=random.uniform(-1, 1))
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
    """One message's trouble, such as a record that cannot be read, is not that of the others: it has its turn again
    after `CLAIM_SECONDS`. What Redis cannot do now, it can do for none of them."""
    try:
        yield
    except RedisError:
        raise
    except Exception:
        log.exception("webhook skipped", message=member)


def judge(message: Message, answer: Response | Exception, *, attempt: int, jitter: float) -> Delivery:
    """The log entry of an attempt: what came of it, and when the next one is due."""
    now = datetime.now(UTC)
    status = answer.status if isinstance(answer, Response) else None
    pause: timedelta | None = None
    if status is not None and 200 <= status < 300:
        outcome = DeliveryOutcome.delivered
    elif status == GONE:
        outcome = DeliveryOutcome.disabled
    elif isinstance(answer, UnsafeUrl):
        outcome = DeliveryOutcome.refused
    else:
        asked = answer.retry_after if isinstance(answer, Response) and status in THROTTLED else None
        pause = pause_after(attempt, asked, jitter)
        outcome = DeliveryOutcome.retrying if pause else DeliveryOutcome.abandoned
    return Delivery(
        message_id=message.id,
        type=message.type,
        at=now,
        attempt=attempt,
        outcome=outcome,
        status=status,
        error=reason_of(answer),
        next_at=now + pause if pause else None,
    )


def reason_of(answer: Response | Exception) -> str | None:
    """Why no answer came, without the URL, which may carry a secret."""
    if isinstance(answer, Response):
        return None
    return answer.message if isinstance(answer, UnsafeUrl) else f"no answer: {type(answer).__name__}"
