"""A real HTTP server on loopback that receives webhooks and answers as a test wants."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str]]
FINE: Answer = (200, {})


@dataclass(frozen=True)
class Call:
    """A received request; header names are in lower case."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers requests with `answers` in order, and repeats the last one."""

    port: int
    answers: list[Answer]
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def allowed(self) -> frozenset[str]:
        return frozenset({f"127.0.0.1:{self.port}"})

    def take(self, call: Call) -> Answer:
        self.calls.append(call)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, fields = self.receiver.take(Call(headers, body))
        self.send_response(status)
        for name, value in {"content-length": "0", **fields}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


@contextmanager
def receiving(*answers: Answer) -> Iterator[Receiver]:
    class BoundHandler(Handler):
        """This server's own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler) as server:
        BoundHandler.receiver = Receiver(server.server_address[1], list(answers) or [FINE])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield BoundHandler.receiver
        finally:
            server.shutdown()
            thread.join()
