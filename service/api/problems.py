"""Every error as a problem document (RFC 9457): `application/problem+json` with a stable `code`."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from service.contract.catalog import FieldProblem, Problem
from service.contract.errors import (
    BodyTooLarge,
    InvalidRequest,
    NotFound,
    QueueUnavailable,
    RangeNotSatisfiable,
    TaskslimError,
)

MEDIA_TYPE = "application/problem+json"
MAX_FIELD_PROBLEMS = 50
FOLLOWS = "default_factory_not_called"  # said of a field whose default depends on one that has an error of its own
RETRY_SECONDS = {429: 30, 503: 5}  # where the error does not know better: jobs end and outages pass
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
# What the router itself refuses, by status; other statuses take their code from the standard phrase.
ROUTER_ERRORS: dict[int, type[TaskslimError]] = {404: NotFound, 413: BodyTooLarge, 416: RangeNotSatisfiable}
MEANINGS = {
    401: "No API key, or one that is not valid",
    403: "The key lacks the scope, or the path is outside what the deployment allows",
    404: "There is no such thing, or it belongs to another tenant",
    405: "The path does not know this method",
    409: "The job's status does not allow it, or its record cannot be read",
    413: "The body is larger than the deployment allows",
    415: "Content-Type names no format that can be read",
    416: "The range begins behind the end",
    422: "The request contradicts itself or the contract; `errors` names the fields",
    429: "Too many requests, jobs, bytes or open streams for this tenant; see Retry-After",
    500: "A bug; the log has its traceback under the request id",
    503: "Redis or the object store does not answer; see Retry-After",
}
ALWAYS = (401, 403, 422, 429, 500, 503)

log = logging.getLogger(__name__)


class ProblemResponse(Response):
    """Escapes what is not ASCII: a field name from the request may hold what UTF-8 cannot."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(problem.model_dump(mode="json", exclude_none=True)).encode()
        super().__init__(content, problem.status, headers)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares for the OpenAPI document: these statuses, and those that every route may answer."""
    return only_problems(*statuses, *ALWAYS)


def only_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares that asks neither for a key nor for Redis: these statuses alone."""
    return {status: {"model": Problem, "description": MEANINGS[status]} for status in sorted(set(statuses))}


def problem_of(error: TaskslimError, instance: str, errors: list[FieldProblem] | None = None) -> Problem:
    """The document for an error of ours; the field that it names becomes an entry of `errors`."""
    if errors is None and error.param is not None:
        errors = [FieldProblem(param=error.param, message=error.message)]
    return _problem(error.status, error.code, error.title, error.message, instance, errors)


def _problem(
    status: int, code: str, title: str, detail: str, instance: str, errors: list[FieldProblem] | None = None
) -> Problem:
    return Problem(
        type=f"urn:taskslim:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        errors=errors,
    )


def _answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as an answer; its code is left for the log line of the request."""
    request.state.code = problem.code
    return ProblemResponse(problem, headers)


def _on_own(request: Request, error: Any) -> Response:
    seconds = error.retry_after_seconds or RETRY_SECONDS.get(error.status)
    headers = {"Retry-After": str(seconds)} if seconds else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(request, problem_of(error, request.url.path), headers)


def _on_invalid(request: Request, error: Any) -> Response:
    entries = [entry for entry in error.errors() if entry["type"] != FOLLOWS]
    fields = [_field_problem(entry) for entry in entries[:MAX_FIELD_PROBLEMS]]
    detail = "; ".join(f"{field.param}: {field.message}" for field in fields[:3])
    return _answer(request, problem_of(InvalidRequest(detail), request.url.path, fields))


def _field_problem(entry: Mapping[str, Any]) -> FieldProblem:
    path = ".".join(str(part) for part in entry["loc"][1:])
    if entry["type"] == "json_invalid":
        return FieldProblem(param="body", message=f"not JSON: {entry['ctx']['error']}")
    return FieldProblem(param=path or str(entry["loc"][0]), message=entry["msg"].removeprefix("Value error, "))


def _on_router(request: Request, error: Any) -> Response:
    own = ROUTER_ERRORS.get(error.status_code)
    phrase = HTTPStatus(error.status_code).phrase
    code, title = (own.code, own.title) if own else (phrase.lower().replace(" ", "_"), phrase)
    detail = str(error.detail) if error.detail != phrase else f"{request.method} {request.url.path}: {phrase.lower()}"
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return _answer(request, _problem(error.status_code, code, title, detail, request.url.path), headers)


def _allowed(request: Request) -> str:
    """The methods of the path in all its routes; the router names only those of the first."""
    asked = {method: dict(request.scope) | {"method": method} for method in METHODS}
    routes = request.app.routes
    return ", ".join(
        method for method in METHODS if any(route.matches(asked[method])[0] is Match.FULL for route in routes)
    )


def _on_redis(request: Request, error: Any) -> Response:
    log.error("Redis failed", exc_info=error)
    return _on_own(request, QueueUnavailable("Redis does not answer; the request can be repeated"))


def _on_bug(request: Request, error: Any) -> Response:
    request_id = request.scope.get("state", {}).get("request_id")
    detail = f"something went wrong here, not with the request; quote the request id {request_id}"
    problem = _problem(500, TaskslimError.code, TaskslimError.title, detail, request.url.path)
    return _answer(request, problem, {"X-Request-ID": str(request_id)})


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""
    app.add_exception_handler(TaskslimError, _on_own)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_router)
    app.add_exception_handler(RedisError, _on_redis)
    app.add_exception_handler(Exception, _on_bug)
