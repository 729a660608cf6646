"""The client process: sends requests over persistent connections and prints their latencies as JSON.

    python -m benchmarks.parts.api_load.client METHOD URL COUNT CONNECTIONS < body

It uses plain sockets, because a client library would take more processor time than the server.
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def run(method: str, url: str, count: int, connections: int, body: bytes) -> dict[str, object]:
    """{"seconds": from the first request to the last answer, "latencies": seconds of each request}."""
    message, parts = _message(method, url, body), urlsplit(url)
    latencies: list[float] = []
    remaining = iter(range(count))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in remaining:
            start = time.perf_counter()
            writer.write(message)
            await _answer(reader)
            latencies.append(time.perf_counter() - start)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return {"seconds": time.perf_counter() - start, "latencies": latencies}


def _message(method: str, url: str, body: bytes) -> bytes:
    parts = urlsplit(url)
    head = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Accept: application/json"]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
    content = await reader.readexactly(length)
    if status not in (200, 202):
        raise RuntimeError(f"{status}: {content[:500]!r}")


if __name__ == "__main__":
    method, url, count, connections = sys.argv[1:]
    print(json.dumps(asyncio.run(run(method, url, int(count), int(connections), sys.stdin.buffer.read()))))
