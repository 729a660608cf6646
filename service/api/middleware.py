"""Middleware for request ids, response headers, metrics and body size, and the route class for strict JSON."""

import json
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any, NoReturn

import structlog
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import METHODS, ProblemResponse, problem_of
from service.contract.errors import BodyTooLarge
from service.contract.ids import new_id
from service.infrastructure import tracing
from service.tenants.api_keys import Caller

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
READING = frozenset({"GET", "HEAD", "OPTIONS"})  # successful reads are counted, not logged
LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

log = structlog.get_logger()


class RequestId:
    """Gives each request an id, for the log and the response: that of the client, or a new one.

    A new id is a ULID of the process and a number, because random bytes for each request would need a system call.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._process = new_id()
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else f"{self._process}-{next(self._numbers)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                window = scope["state"].get("window")
                for name, value in window.headers().items() if window else ():
                    headers[name] = value
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)  # each request is a task with its own context
        await self.app(scope, receive, send_with_headers)


class RequestMetrics:
    """Counts each request and its duration by route, and logs errors and requests that change something."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else "other"
        with tracing.request_span(method, Headers(scope=scope)) as span:
            try:
                await self.app(scope, receive, send_noting_status)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.route": route, "http.response.status_code": status})
                self._record(scope, method, route, status, time.perf_counter() - start)

    def _record(self, scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
        scope["state"]["metrics"].record(method, route, status, seconds)
        if status >= 400 or method not in READING:
            state = scope["state"]
            known = {name: state[name] for name in ("request_id", "code") if name in state}
            told = {"route": route, "status": status, **known, **_tenant_field(state.get("caller"))}
            log.info("request", method=method, milliseconds=round(seconds * 1000, 1), **told, **_job_field(scope))


def _tenant_field(caller: Caller | None) -> dict[str, str]:
    """The tenant of the caller, for the log."""
    return {"tenant": caller.tenant} if caller else {}


def _job_field(scope: Scope) -> dict[str, str]:
    """The job id in the path, for the log."""
    job_id = scope.get("path_params", {}).get("job_id")
    return {"job_id": job_id} if job_id else {}


class BodyLimit:
    """Refuses a body of more than `max_bytes` (`larger`: path -> its own limit).

    The declared length is checked first, and the received bytes are counted, because it may be wrong or absent.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.larger.get(scope["path"], self.max_bytes)
        detail = f"the body is larger than {max_bytes} bytes: store the rows and send their URI"
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > max_bytes:
            scope["state"]["code"] = BodyTooLarge.code
            await ProblemResponse(problem_of(BodyTooLarge(detail), scope["path"]))(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413, detail)
            return message

        await self.app(scope, receive_counted, send)


class StrictRequest(Request):
    """A request that refuses JSON which Python reads but the standard does not allow.

    Such JSON has NaN or Infinity, lone surrogates, too deep nesting or too long numbers.
    """

    async def json(self) -> Any:
        body = await self.body()
        try:
            value = json.loads(body.decode(), parse_constant=_refuse_constant)
            if LONE_SURROGATE.search(body):
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except UnicodeError as error:
            raise json.JSONDecodeError("the text is not UTF-8", "", 0) from error
        except RecursionError as error:
            raise json.JSONDecodeError("the nesting is too deep", "", 0) from error
        except ValueError as error:  # a number with more digits than Python converts
            raise json.JSONDecodeError("a number is too long", "", 0) from error
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a JSON number", "", 0)


class StrictRoute(APIRoute):
    """A route that reads its body as a `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
