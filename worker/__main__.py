"""python -m worker [--burst]: runs one worker process for one device, with the settings SLIM_REDIS_URL and others.

For several devices, start one process for each with its own CUDA_VISIBLE_DEVICES. SIGTERM hands the job back.
"""

import argparse
import socket
import sys

from service.contract.ids import new_id
from service.infrastructure.logs import configure
from service.settings import Settings
from worker.attempts.rq_worker import SlimWorker


def main() -> None:
    """Run a worker until it is stopped, or with --burst until the queue is empty."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Takes jobs from the queue, one at a time.")
    parser.add_argument("--burst", action="store_true", help="end when the queue is empty")
    burst = parser.parse_args().burst
    settings = Settings()
    if not settings.redis_url:
        sys.exit("a worker needs SLIM_REDIS_URL: set it, or run `taskslim serve`, which starts a Redis of its own")
    configure("worker")
    SlimWorker(settings.redis_url, name=f"{socket.gethostname()}-{new_id()}", standby=settings.standby).work(
        burst=burst
    )


if __name__ == "__main__":
    main()
