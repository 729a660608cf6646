"""Request headers and times: `Prefer: wait` (RFC 7240), `Idempotency-Key`, `If-None-Match` and RFC 3339 times."""

import hashlib
import re
from typing import Annotated

from fastapi import Header, Response
from pydantic import AwareDatetime, BeforeValidator

from service.jobs.idempotency import HEADER

MAX_WAIT_SECONDS = 30
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=f"^(?:{HEADER.pattern})$",
        description="a string of your choice; a request with the same key is carried out once in 24 hours",
        examples=['"8e03978e-40d5-43e8-bc93-6894a57f9324"'],
    ),
]
PreferHeader = Annotated[
    str | None,
    Header(
        max_length=256,
        description=f"`wait=N`: respond when the job has ended, or after N seconds (at most {MAX_WAIT_SECONDS}); while "
        "the tenant has the maximum number of open waits, the response comes at once, without `Preference-Applied`",
        examples=["wait=1"],
    ),
]
IfNoneMatchHeader = Annotated[
    str | None, Header(max_length=1024, description="an ETag that the client has; 304 while the job has not changed")
]


def _check_rfc_3339(value: str) -> str:
    """Refuse numbers and other forms of ISO 8601, which pydantic accepts."""
    if not re.match(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d", value):
        raise ValueError("send a time in the form of RFC 3339, such as 2026-11-22T09:30:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_check_rfc_3339)]


def wait_seconds(prefer: str | None) -> int:
    """The seconds of `wait=N` in a `Prefer` header, limited to the maximum; 0 without it. Other parts are ignored."""
    match = WAIT.search(prefer or "")
    return min(int(match[1]), MAX_WAIT_SECONDS) if match else 0


def has_etag(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has the body with this ETag (RFC 9110, 13.1.2: weak comparison)."""
    known = {candidate.strip().removeprefix("W/") for candidate in (if_none_match or "").split(",")}
    return bool(known & {etag, "*"})


def conditional(body: str, headers: dict[str, str], if_none_match: str | None) -> Response:
    """The JSON body with a digest of it as ETag, or 304 where the client has the body."""
    etag = f'"{hashlib.blake2b(body.encode(), digest_size=16).hexdigest()}"'
    headers = headers | {"ETag": etag, "Cache-Control": "private, no-cache"}
    if has_etag(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
