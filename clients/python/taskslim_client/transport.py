"""Requests to the server: problems become exceptions, and what is safe to repeat is repeated while it is away."""

import time
from typing import Any

import httpx

from taskslim_client.errors import InvalidAnswer, NoAnswer, Refused

REQUEST_SECONDS = 60.0
PAUSE_SECONDS = 1.0  # between two attempts, where the server does not say how long to wait
AWAY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
PASSING = ("too_many_requests", "idempotency_key_in_use")  # problems that pass by themselves


class Transport:
    """An HTTP connection to the server at `url`, with an API key."""

    def __init__(self, url: str, key: str | None, patience: float) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True)
        self._patience = patience

    def send(self, method: str, path: str, *, repeat: bool = True, **options: Any) -> httpx.Response:
        """The answer to a request. With `repeat` it is sent again while the server is away, for `patience` seconds.

        Raises NoAnswer and Refused.
        """
        end = time.monotonic() + self._patience
        while True:
            try:
                answer = self.http.request(method, path, **options)
            except httpx.HTTPError as error:
                if not repeat or time.monotonic() + PAUSE_SECONDS > end:
                    raise NoAnswer(f"no answer from {self.http.base_url}: {error or type(error).__name__}") from error
                time.sleep(PAUSE_SECONDS)
                continue
            pause = _pause(answer)
            if pause is None or not repeat or time.monotonic() + pause > end:
                return check(answer)
            time.sleep(pause)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of the answer to a request. Raises as `send`, and InvalidAnswer."""
        answer = self.send(method, path, **options)
        try:
            return answer.json()
        except ValueError as error:
            raise InvalidAnswer(f"{answer.request.url} answered no JSON") from error


def _pause(answer: httpx.Response) -> float | None:
    """Seconds after which to send the request again; None for an answer that stands."""
    if answer.status_code not in AWAY and problem_of(answer).get("code") not in PASSING:
        return None
    named = answer.headers.get("Retry-After", "")
    return float(named) if named.isdigit() else PAUSE_SECONDS


def check(answer: httpx.Response) -> httpx.Response:
    """The answer itself. Raises Refused for a problem document, InvalidAnswer for another error."""
    if not answer.is_error:
        return answer
    problem = problem_of(answer)
    if "code" not in problem:
        raise InvalidAnswer(f"{answer.request.url} answered {answer.status_code}: {answer.text[:500]}")
    fields = {entry["param"]: entry["message"] for entry in problem.get("errors") or ()}
    raise Refused(answer.status_code, problem["code"], problem.get("detail", ""), fields)


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The problem document of an answer; empty where it is none."""
    if "application/problem+json" not in answer.headers.get("Content-Type", ""):
        return {}
    found = answer.json()
    return found if isinstance(found, dict) else {}
