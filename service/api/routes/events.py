"""The route for the events of a job: a list, or a stream of Server-Sent Events until the job has ended."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import redis.asyncio
from fastapi import APIRouter, Header, Query, Request, Response
from redis import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from service.api.dependencies import AsyncRedisDep, JobStoreDep, ReadableRecord, StreamLimitDep
from service.api.problems import problem_responses
from service.contract.answers.job import EventPage
from service.jobs.events import check_event_id, follow_events
from service.jobs.record import JobRecord

HEARTBEAT_SECONDS = 15  # proxies close a connection without data for half a minute
STREAM = "text/event-stream"

router = APIRouter(tags=["jobs"])
EVENT_ID = "^[0-9]{1,19}(-[0-9]{1,19})?$"
EventId = Annotated[str | None, Query(pattern=EVENT_ID, description="`id` of the last event that the client has seen")]


@router.get(
    "/jobs/{job_id}/events",
    operation_id="listEvents",
    summary="Follow a job",
    response_model=EventPage,
    responses={
        **problem_responses(404, 409),
        200: {"description": "Events, oldest first", "content": {STREAM: {"schema": {"type": "string"}}}},
    },
)
def list_events(
    request: Request,
    record: ReadableRecord,
    job_store: JobStoreDep,
    async_redis: AsyncRedisDep,
    stream_limit: StreamLimitDep,
    after: EventId = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="number of events on a page")] = 100,
    last_event_id: Annotated[
        str | None, Header(pattern=EVENT_ID, description="the same as `after`; sent by a client that resumes a stream")
    ] = None,
) -> EventPage | Response:
    """A page of events; with `Accept: text/event-stream` a stream of all events, past and new.

    The stream closes after the event that ends the job. A broken stream is resumed with `Last-Event-ID`. A tenant with
    the maximum number of open streams gets 429.
    """
    after = last_event_id or after
    if STREAM in request.headers.get("accept", ""):
        check_event_id(after or "0-0")
        stream_limit.acquire(record.tenant)
        return _Stream(_events(async_redis, record, after), lambda: stream_limit.release(record.tenant))
    events = job_store.events(record.tenant, record.id, after=after, limit=limit)
    full = len(events) == limit
    return EventPage(data=events, next_cursor=events[-1].id if full else None, has_more=full)


class _Stream(EventSourceResponse):
    """A stream of Server-Sent Events that calls `closed` when it ends, on either side."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], closed: Callable[[], None]) -> None:
        super().__init__(events, ping=HEARTBEAT_SECONDS)
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()


async def _events(
    async_redis: redis.asyncio.Redis, record: JobRecord, after: str | None
) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in follow_events(async_redis, record.tenant, record.id, after=after):
            yield ServerSentEvent(event.model_dump_json(), id=event.id, event=event.type)
    except RedisError:
        return  # the client resumes with Last-Event-ID, as after any broken connection
