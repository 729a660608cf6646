"""Responses with a stored file: a redirect to a signed URL where the store supports them, else its bytes."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from service.api.problems import problem_responses
from service.api.request_headers import has_etag
from service.contract.answers.resources import StoredFile
from service.storage.object_store import Storage
from service.tenants.signed_links import LINK_SECONDS

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class DownloadHeaders:
    """The request headers of a download."""

    range: Annotated[str | None, Header(description="a single range, such as `bytes=0-1023`")] = None
    if_range: Annotated[str | None, Header(description="an ETag; the whole file is sent if it has another")] = None
    if_none_match: Annotated[str | None, Header(description="an ETag; 304 if the file has it")] = None


DownloadHeadersDep = Annotated[DownloadHeaders, Depends()]


def file_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that sends a file, for the OpenAPI document; `statuses` are further errors."""
    content = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    return {
        **problem_responses(404, 416, *statuses),
        200: {"description": "The file", "content": content},
        206: {"description": "The range of the file", "content": content},
        304: {"description": "The client has the file"},
        307: {"description": "A signed URL in `Location` serves the file"},
    }


def send(storage: Storage, key: str, file: StoredFile, wanted: DownloadHeaders, *, redirect: bool) -> Response:
    """The object at `key`, or the range of it that the request asks for; `file` has its size and SHA-256."""
    url = storage.sign(key, LINK_SECONDS) if redirect else None
    if url is not None:
        return RedirectResponse(url)
    etag = f'"{file.sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if has_etag(wanted.if_none_match, etag):
        return Response(status_code=304, headers=headers)
    span = parse_range(wanted.range, file.size) if wanted.if_range in (None, etag) else None
    return _stream(storage, key, file, headers, span)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The span [start, end) of a Range header; None for the whole file.

    Raises HTTPException 416 for a start after the end of the file.
    """
    match = RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < int(match[1]):
            return None  # an invalid range is ignored (RFC 9110, 14.2)
    if start >= end:
        raise HTTPException(
            416, f"the range begins after the end: the file has {size} bytes", {"Content-Range": f"bytes */{size}"}
        )
    return start, end


def _stream(
    storage: Storage, key: str, file: StoredFile, headers: dict[str, str], span: tuple[int, int] | None
) -> Response:
    start, end = span or (0, file.size)
    headers |= {"Content-Length": str(end - start), "Content-Disposition": "attachment"}
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    pieces = storage.stream(key, start, end) if span else storage.stream(key)
    return StreamingResponse(pieces, status_code=206 if span else 200, headers=headers, media_type=BINARY)
