"""The throughput of the API compared with a minimal app of FastAPI and RQ, on the same Redis.

    .venv/bin/python benchmarks/api_load.py [--quick]

The servers and the client are separate processes; the servers have the same uvicorn settings. Rounds alternate between
the servers, so that other load on the machine affects all of them; a figure is the median over rounds. A submission
names a local model and rows, passes every check and is recorded and queued; a read is GET /jobs/{id} of one job. The
figures are written to results/api_load.json. The last line is one JSON object: the product's throughput divided by the
bare app's (aims: submit_ratio 0.6, read_ratio 0.8), the worse ratio of the two 99th percentiles of latency (p99_ratio,
aim at most 2), and the ratios of processor time for one request, which do not depend on other load.

The product puts every job into RQ at once, as the bare app does. By default a tenant has at most eight jobs in RQ, and
nearly all jobs of a run wait outside it, which is cheaper: those figures are `waiting`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psutil
from redis import Redis

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from service.infrastructure.embedded_redis import embedded_redis
from tests.support.jobs import checkpoint, request
from tests.support.ports import free_port
from tests.support.waiting import wait_until

RESULT = ROOT / "benchmarks" / "results" / "api_load.json"
CONNECTIONS = 8
UNLIMITED = "1000000"  # jobs of a tenant in RQ: more than a run submits
Figures = dict[str, float]


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of the process so far, in seconds."""
        times = self.process.cpu_times()
        return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: at most two minutes")
    quick = parser.parse_args().quick
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        url = stack.enter_context(embedded_redis(directory / "redis"))
        apps = {
            "bare": stack.enter_context(bare(url)),
            "product": stack.enter_context(product(url, directory / "product", {"SLIM_MAX_RUNNING_JOBS": UNLIMITED})),
            "waiting": stack.enter_context(product(f"{url}?db=1", directory / "waiting", {})),
        }
        body = request(checkpoint(directory / "model"), 40).model_dump_json(exclude_unset=True).encode()
        measured = compare(apps, body, url, rounds=3 if quick else 9, count=300 if quick else 1000)
    shares = ratios(measured) | {"waiting": ratios(measured, "waiting")}
    figures = {"quick": quick, "connections": CONNECTIONS} | shares | measured
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({name: figures[name] for name in (*shares, "submit", "read")}))


def compare(
    apps: dict[str, Server], body: bytes, redis_url: str, rounds: int, count: int
) -> dict[str, dict[str, Figures]]:
    """Action -> app -> median figures. The first round is a warm-up and is not counted."""
    taken: dict[str, dict[str, list[Figures]]] = {action: {app: [] for app in apps} for action in ("submit", "read")}
    paths = {app: job_path(app, server.url, body, redis_url) for app, server in apps.items()}
    for number in range(rounds + 1):
        for app, server in apps.items():
            for action, figures in (
                ("submit", measure(server, "POST", "/jobs", count, body)),
                ("read", measure(server, "GET", paths[app], count, b"")),
            ):
                print(f"round {number} {app:8} {action:7} {figures['per_second']:8.0f}/s", flush=True)
                if number:
                    taken[action][app].append(figures)
    return {action: {app: medians(found) for app, found in by_app.items()} for action, by_app in taken.items()}


def measure(server: Server, method: str, path: str, count: int, body: bytes) -> Figures:
    """Throughput, latencies and processor time per request, of `count` requests by a client process."""
    url, before = server.url + path, server.cpu_seconds()
    command = [sys.executable, "-m", "benchmarks.parts.api_load.client", method, url, str(count), str(CONNECTIONS)]
    answer = subprocess.run(command, input=body, capture_output=True, cwd=ROOT, check=False)
    if answer.returncode != 0:
        raise RuntimeError(answer.stderr.decode()[-2000:])
    found = json.loads(answer.stdout)
    centiles = quantiles(found["latencies"], n=100)
    return {
        "per_second": count / found["seconds"],
        "p50_ms": 1000 * centiles[49],
        "p99_ms": 1000 * centiles[98],
        "cpu_ms": 1000 * (server.cpu_seconds() - before) / count,
    }


def medians(rounds: list[Figures]) -> Figures:
    return {name: round(median(figures[name] for figures in rounds), 2) for name in rounds[0]}


def ratios(measured: dict[str, dict[str, Figures]], app: str = "product") -> Figures:
    """The figures of `app` divided by those of the bare app."""

    def ratio(action: str, figure: str) -> float:
        return round(measured[action][app][figure] / measured[action]["bare"][figure], 3)

    return {
        "submit_ratio": ratio("submit", "per_second"),
        "read_ratio": ratio("read", "per_second"),
        "p99_ratio": max(ratio("submit", "p99_ms"), ratio("read", "p99_ms")),
        "submit_cpu_ratio": ratio("submit", "cpu_ms"),
        "read_cpu_ratio": ratio("read", "cpu_ms"),
    }


def job_path(app: str, url: str, body: bytes, redis_url: str) -> str:
    """The path of a new job that can be read; for the bare app, its hash in Redis is written here."""
    job_id = httpx.post(f"{url}/jobs", content=body, headers={"Content-Type": "application/json"}).json()["id"]
    if app == "bare":
        with Redis.from_url(redis_url) as redis:
            fields: dict[Any, Any] = {"id": job_id, "status": "queued", "request": body, "created_at": "2026-11-22"}
            redis.hset(f"bare:{job_id}", mapping=fields)
    return f"/jobs/{job_id}"


@contextmanager
def bare(redis_url: str) -> Iterator[Server]:
    port = free_port()
    with serving(
        ["-m", "benchmarks.parts.api_load.bare_app", redis_url, str(port)], {}, f"http://127.0.0.1:{port}"
    ) as server:
        yield server


@contextmanager
def product(redis_url: str, state: Path, variables: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    variables = {"SLIM_REDIS_URL": redis_url, "SLIM_STATE": str(state)} | variables
    with serving(["-m", "service.cli", "api", "--port", str(port)], variables, f"http://127.0.0.1:{port}") as server:
        yield server


@contextmanager
def serving(arguments: list[str], variables: dict[str, str], url: str) -> Iterator[Server]:
    """A server process that answers requests; it is stopped after the block."""
    running = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | variables, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(url))
        yield Server(url, psutil.Process(running.pid))
    finally:
        running.terminate()
        running.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/openapi.json").is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
