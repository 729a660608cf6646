"""A job's history: a Redis stream, bounded, whose last entry is always the end of the job."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

from redis.asyncio import Redis

from service.contract.errors import InvalidRequest
from service.contract.job import Event, JobStatus
from service.infrastructure.redis_keys import events_key

Entries = list[tuple[str, dict[str, str]]]
START = "0-0"
WAIT_MS = 2000  # below the time-out of the socket, which is 5 seconds


def parse(entries: Entries) -> list[Event]:
    """Entries of a job's stream, as `XRANGE` and `XREAD` give them."""
    return [
        Event(
            id=entry_id,
            type=cast(Any, fields["type"]),
            at=datetime.fromtimestamp(int(entry_id.split("-")[0]) / 1000, UTC),
            attempt=int(fields["attempt"]),
            data=json.loads(fields["data"]),
        )
        for entry_id, fields in entries
    ]


def check_id(after: str) -> str:
    """`InvalidRequest` for what is not the id of an event, such as `1762000000000-0`."""
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in after.split("-", 1)):
        raise InvalidRequest("`after` is not the id of an event", param="after")
    return after


def ends_job(event: Event) -> bool:
    """Whether this is the last event of a job."""
    return event.type == "status" and JobStatus(event.data["status"]).is_terminal


async def follow(redis: Redis, tenant: str, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
    """Every event behind `after`, then each new one as it comes, up to the one that ends the job.

    Also ends when the job is deleted, or when its last event is not behind `after`. The job must exist: see
    `JobStore.get`.
    """
    key, last, wait = events_key(tenant, job_id), check_id(after or START), None
    while True:
        events = parse(_entries(await redis.xread({key: last}, count=100, block=wait)))
        for event in events:
            yield event
            if ends_job(event):
                return
        if events:
            last, wait = events[-1].id, None
        elif await _is_over(redis, key, last):
            return
        else:
            wait = WAIT_MS


def _entries(answer: Any) -> Entries:
    """The entries of the one stream that was read; RESP2 answers with pairs, RESP3 with a mapping."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (entries,) = answer.values()
        return cast(Entries, entries[0] if entries and isinstance(entries[0], list) else entries)
    return cast(Entries, answer[0][1])


async def _is_over(redis: Redis, key: str, last: str) -> bool:
    """Whether nothing can follow `last`: the stream is gone, or its newest entry ends the job and is not behind it."""
    newest = parse(cast(Any, await redis.xrevrange(key, count=1)))
    return not newest or (_order(newest[0].id) <= _order(last) and ends_job(newest[0]))


def _order(event_id: str) -> tuple[int, int]:
    """What Redis compares ids by; one without its second number has 0 there."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)
