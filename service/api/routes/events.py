"""A job's history: a list, or a stream of Server-Sent Events up to the job's end."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import redis.asyncio
from fastapi import APIRouter, Header, Query, Request, Response
from redis import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from service.api.dependencies import FollowerDep, FoundRecord, JobStoreDep, StreamLimitDep
from service.api.problems import problem_responses
from service.contract.job import EventPage
from service.jobs.events import check_event_id, follow_events
from service.jobs.record import JobRecord

HEARTBEAT_SECONDS = 15  # proxies close a connection that is silent for half a minute
STREAM = "text/event-stream"

router = APIRouter(tags=["jobs"])
EVENT_ID = "^[0-9]{1,19}(-[0-9]{1,19})?$"
EventId = Annotated[str | None, Query(pattern=EVENT_ID, description="the `id` of the last event that was seen")]


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
    record: FoundRecord,
    job_store: JobStoreDep,
    follower: FollowerDep,
    stream_limit: StreamLimitDep,
    after: EventId = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="events on a page")] = 100,
    last_event_id: Annotated[
        str | None, Header(pattern=EVENT_ID, description="as `after`, set by a client that resumes")
    ] = None,
) -> EventPage | Response:
    """A page of events. With `Accept: text/event-stream`: every event and then each new one as it comes.

    The stream closes behind the event that ends the job; one that breaks is resumed with `Last-Event-ID`. A tenant that
    has as many streams open as it may gets 429 in place of another.
    """
    after = last_event_id or after
    if STREAM in request.headers.get("accept", ""):
        check_event_id(after or "0-0")
        stream_limit.acquire(record.tenant)
        return _Stream(_events(follower, record, after), lambda: stream_limit.release(record.tenant))
    events = job_store.events(record.tenant, record.id, after=after, limit=limit)
    full = len(events) == limit
    return EventPage(data=events, next_cursor=events[-1].id if full else None, has_more=full)


class _Stream(EventSourceResponse):
    """Calls `closed` when it is over, whoever ended it."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], closed: Callable[[], None]) -> None:
        super().__init__(events, ping=HEARTBEAT_SECONDS)
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()


async def _events(
    follower: redis.asyncio.Redis, record: JobRecord, after: str | None
) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in follow_events(follower, record.tenant, record.id, after=after):
            yield ServerSentEvent(event.model_dump_json(), id=event.id, event=event.type)
    except RedisError:
        return  # the client resumes with Last-Event-ID, as after any break
