"""A client that sends every submission with an idempotency key, and repeats requests that fail."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

PAUSE_SECONDS = 1.0
RETRY_SECONDS = 300.0
RETRIED_STATUSES = frozenset({409, 429, 500, 502, 503, 504})


@dataclass
class Client:
    """The submissions so far.

    `accepted` maps the number of a request to the id of its job, `refused` to the status and body of the answer;
    `failures` counts the requests that were repeated.
    """

    url: str
    accepted: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    failures: int = 0

    def submit_all(self, requests: list[dict[str, Any]], gap_seconds: float) -> threading.Thread:
        """Submit the requests in a thread, one every `gap_seconds`, or later during an outage."""

        def run() -> None:
            start = time.monotonic()
            for number, request in enumerate(requests):
                time.sleep(max(0.0, start + number * gap_seconds - time.monotonic()))
                self._submit(number, request)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path, requested until there is an answer; empty for 404."""
        response = self._send("GET", path)
        return {} if response.status_code == 404 else response.raise_for_status().json()

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the service."""
        jobs, cursor = [], ""
        while True:
            page = self.get(f"/jobs?limit=100{cursor}")
            jobs += page["data"]
            if not page["has_more"]:
                return jobs
            cursor = f"&cursor={page['next_cursor']}"

    def _submit(self, number: int, request: dict[str, Any]) -> None:
        response = self._send("POST", "/jobs", json=request, headers={"Idempotency-Key": f'"chaos-{number}"'})
        if response.is_success:
            self.accepted[number] = response.json()["id"]
        else:
            self.refused[number] = f"{response.status_code} {response.text}"

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                response = httpx.request(method, self.url + path, timeout=40, **options)
                if response.status_code not in RETRIED_STATUSES or time.monotonic() > end:
                    return response
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
            self.failures += 1
            time.sleep(PAUSE_SECONDS)
