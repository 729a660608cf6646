"""The memory of Redis for each job: queued, and when it has succeeded.

    .venv/bin/python benchmarks/redis_memory.py [--jobs N]

Jobs with a preset and rows by URI are created in a Redis of its own, and then finished without a model: their records,
events and results are those of a real job. The last line is one JSON object with bytes for each job.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from redis import Redis

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from service.contract.request.job_request import JobRequest
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.finished_jobs import finish

WARM_UP = 100  # jobs before the first figure, which pay for what all jobs share
REQUEST = {
    "model": {"uri": "s3://models/smollm2-135m"},
    "task": {"preset": "sst2", "calibration": {"uri": "s3://rows/sst2/train.jsonl"}},
    "target": {"ratio": 0.5},
    "tags": {"pipeline": "nightly"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as directory, embedded_redis(Path(directory) / "redis") as url:
        print(json.dumps(measure(url, Path(directory), count)))


def measure(url: str, directory: Path, count: int) -> dict[str, int]:
    """Bytes of Redis for each of `count` jobs."""
    redis, store, queue = Redis.from_url(url), JobStore(connect(url)), JobQueue(connect(url, decode=False))
    storage = Storage((directory / "artifacts").as_uri())
    request = JobRequest.model_validate(REQUEST)

    def used() -> int:
        return int(redis.info("memory")["used_memory"])

    def create(number: int) -> list[JobRecord]:
        records = [store.accept(new_record(request)) for _ in range(number)]
        for record in records:
            queue.enqueue(record)
        return records

    create(WARM_UP)
    before = used()
    created = create(count)
    queued = used()
    for record in created:
        finish(record, store, storage, files={})
    return {"jobs": count, "queued": (queued - before) // count, "succeeded": (used() - before) // count}


if __name__ == "__main__":
    main()
