"""Error handlers: every error becomes a problem document (RFC 9457) with a stable `code`."""

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

from service.contract.answers.catalog import FieldProblem, Problem
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
DEFAULT_NOT_COMPUTED = "default_factory_not_called"  # pydantic's error for a default that depends on an invalid field
RETRY_SECONDS = {429: 30, 503: 5}  # where the error has no time of its own
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
# Errors of the router by status; other statuses take their code from the standard phrase.
ROUTER_ERRORS: dict[int, type[TaskslimError]] = {404: NotFound, 413: BodyTooLarge, 416: RangeNotSatisfiable}
MEANINGS = {
    401: "No API key, or an invalid one",
    403: "The key lacks the scope, or the deployment does not allow the path",
    404: "It does not exist, or belongs to another tenant",
    405: "The path does not support the method",
    409: "The job's status does not allow it, or its record cannot be read",
    413: "The body is larger than the deployment allows",
    415: "The format of the Content-Type header is not supported",
    416: "The range begins after the end of the file",
    422: "The request is not valid; `errors` has the fields to change",
    429: "The tenant has too many requests, jobs, stored bytes or open streams; see Retry-After",
    500: "A bug; the server's log has the traceback under the request id",
    503: "Redis or the object store does not answer; see Retry-After",
}
ALWAYS = (401, 403, 422, 429, 500, 503)

log = logging.getLogger(__name__)


class ProblemResponse(Response):
    """A problem document in ASCII: a field name of the request may have characters that UTF-8 cannot encode."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(problem.model_dump(mode="json", exclude_none=True)).encode()
        super().__init__(content, problem.status, headers)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route for the OpenAPI document: these statuses, and those of every route."""
    return only_problems(*statuses, *ALWAYS)


def only_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route that needs neither a key nor Redis: these statuses only."""
    return {status: {"model": Problem, "description": MEANINGS[status]} for status in sorted(set(statuses))}


def problem_of(error: TaskslimError, instance: str, errors: list[FieldProblem] | None = None) -> Problem:
    """The problem document of an error; its `param` becomes an entry of `errors`."""
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


def _respond(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as a response; its code is stored for the log line of the request."""
    request.state.code = problem.code
    return ProblemResponse(problem, headers)


def _on_taskslim_error(request: Request, error: Any) -> Response:
    seconds = error.retry_after_seconds or RETRY_SECONDS.get(error.status)
    headers = {"Retry-After": str(seconds)} if seconds else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _respond(request, problem_of(error, request.url.path), headers)


def _on_validation_error(request: Request, error: Any) -> Response:
    entries = [entry for entry in error.errors() if entry["type"] != DEFAULT_NOT_COMPUTED]
    fields = [_field_problem(entry) for entry in entries[:MAX_FIELD_PROBLEMS]]
    detail = "; ".join(f"{field.param}: {field.message}" for field in fields[:3])
    return _respond(request, problem_of(InvalidRequest(detail), request.url.path, fields))


def _field_problem(entry: Mapping[str, Any]) -> FieldProblem:
    path = ".".join(str(part) for part in entry["loc"][1:])
    if entry["type"] == "json_invalid":
        return FieldProblem(param="body", message=f"not JSON: {entry['ctx']['error']}")
    return FieldProblem(param=path or str(entry["loc"][0]), message=entry["msg"].removeprefix("Value error, "))


def _on_http_exception(request: Request, error: Any) -> Response:
    own = ROUTER_ERRORS.get(error.status_code)
    phrase = HTTPStatus(error.status_code).phrase
    code, title = (own.code, own.title) if own else (phrase.lower().replace(" ", "_"), phrase)
    detail = str(error.detail) if error.detail != phrase else f"{request.method} {request.url.path}: {phrase.lower()}"
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return _respond(request, _problem(error.status_code, code, title, detail, request.url.path), headers)


def _allowed(request: Request) -> str:
    """The methods of all routes with the path; the router reports only those of the first."""
    scopes = {method: dict(request.scope) | {"method": method} for method in METHODS}
    routes = request.app.routes
    return ", ".join(
        method for method in METHODS if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)
    )


def _on_redis_error(request: Request, error: Any) -> Response:
    log.error("Redis failed", exc_info=error)
    return _on_taskslim_error(request, QueueUnavailable("Redis does not answer: send the request again later"))


def _on_bug(request: Request, error: Any) -> Response:
    request_id = request.scope.get("state", {}).get("request_id")
    detail = f"an error in the service, not in the request: report it with the request id {request_id}"
    problem = _problem(500, TaskslimError.code, TaskslimError.title, detail, request.url.path)
    return _respond(request, problem, {"X-Request-ID": str(request_id)})


def add_error_handlers(app: FastAPI) -> None:
    """Add the handlers that make every error of the application a problem document."""
    app.add_exception_handler(TaskslimError, _on_taskslim_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RedisError, _on_redis_error)
    app.add_exception_handler(Exception, _on_bug)
