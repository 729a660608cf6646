"""The history of a job: events in a Redis stream of bounded length. The last event of a finished job is its end."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

from redis.asyncio import Redis

from service.contract.answers.job import Event, JobStatus
from service.contract.errors import InvalidRequest
from service.infrastructure.redis_keys import events_key

StreamEntries = list[tuple[str, dict[str, str]]]
START = "0-0"
WAIT_MS = 2000  # less than the time-out of the socket, which is 5 seconds


def parse_events(entries: StreamEntries) -> list[Event]:
    """The events of the entries that `XRANGE` and `XREAD` return."""
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


def check_event_id(after: str) -> str:
    """The id of an event, such as `1762000000000-0`. Raises InvalidRequest for anything else."""
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in after.split("-", 1)):
        raise InvalidRequest("`after` is not the id of an event, such as 1762000000000-0", param="after")
    return after


def ends_job(event: Event) -> bool:
    """Whether this is the last event of a job."""
    return event.type == "status" and JobStatus(event.data["status"]).is_terminal


async def follow_events(redis: Redis, tenant: str, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
    """Yield the events after `after`, then each new one, up to the event that ends the job.

    Returns as well when the job is deleted, or when the job has ended and has no event after `after`. The caller checks
    that the job exists.
    """
    key, last, wait = events_key(tenant, job_id), check_event_id(after or START), None
    while True:
        events = parse_events(_entries(await redis.xread({key: last}, count=100, block=wait)))
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


def _entries(response: Any) -> StreamEntries:
    """The entries of the one stream that was read. RESP2 returns pairs, RESP3 a mapping."""
    if not response:
        return []
    if isinstance(response, dict):
        (entries,) = response.values()
        return cast(StreamEntries, entries[0] if entries and isinstance(entries[0], list) else entries)
    return cast(StreamEntries, response[0][1])


async def _is_over(redis: Redis, key: str, last: str) -> bool:
    """Whether no event can follow `last`: the stream was deleted, or its newest event ends the job and is not later."""
    newest = parse_events(cast(Any, await redis.xrevrange(key, count=1)))
    return not newest or (_order(newest[0].id) <= _order(last) and ends_job(newest[0]))


def _order(event_id: str) -> tuple[int, int]:
    """The two numbers by which Redis orders ids; the second is 0 where an id lacks it."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)
