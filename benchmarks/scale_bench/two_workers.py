"""What a second worker gains: one job on one worker, and the same job in two shards on two workers.

The workers run and wait before a job is submitted. Each computes with one thread.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from benchmarks.scale_bench.shapes import Shape, model
from service.contract.job import JobStatus
from service.contract.request import JobRequest
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.infrastructure.worker_registry import live_workers
from service.jobs.queue import JobQueue
from service.jobs.reconciler import reconciling
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage
from tests.support.waiting import wait_until

SHAPE = Shape(hidden=256, width=1024, layers=4, vocabulary=512)
WORDS = [f"w{number}" for number in range(500)]
LENGTH = 60  # words of a row
EVALUATION_ROWS = 32
POLL_SECONDS = 0.1


def run(directory: Path, rows: int) -> dict[str, float]:
    """Seconds of both jobs, whole and of the stages that shards divide, and the ratios. Raises RuntimeError."""
    request = _request(directory, rows)
    seconds: dict[str, float] = {}
    for name, shards in (("one_worker", 1), ("two_workers", 2)):
        method = request["method"] | {"shards": shards}
        whole, measuring = _job(directory / name, request | {"method": method}, workers=shards)
        seconds |= {f"{name}_seconds": whole, f"{name}_measuring_seconds": measuring}
    return seconds | {
        "two_worker_speedup": round(
            seconds["one_worker_measuring_seconds"] / seconds["two_workers_measuring_seconds"], 2
        ),
        "two_worker_job_speedup": round(seconds["one_worker_seconds"] / seconds["two_workers_seconds"], 2),
    }


def _request(directory: Path, rows: int) -> dict[str, Any]:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "yes", "no", ":", *WORDS]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = directory / "model"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(made)
    model(SHAPE, torch.device("cpu")).save_pretrained(made)
    files = {
        "calibration": _rows(directory, "calibration", rows),
        "evaluation": _rows(directory, "evaluation", EVALUATION_ROWS),
    }
    return {
        "model": {"uri": made.as_uri()},
        "task": {"template": "{text} :", "labels": {"yes": "yes", "no": "no"}} | files,
        "method": {"criterion": "attribution", "repair": "none"},
        "target": {"ratio": 0.3},
    }


def _rows(directory: Path, name: str, count: int) -> dict[str, str]:
    path = directory / f"{name}.jsonl"
    lines = [
        {
            "text": " ".join(WORDS[(row * 31 + word * 7) % 500] for word in range(LENGTH)),
            "label": ("yes", "no")[row % 2],
        }
        for row in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"uri": path.as_uri()}


def _job(directory: Path, request: dict[str, Any], workers: int) -> tuple[float, float]:
    """(seconds of the job, seconds of the stages that shards divide), in a deployment of its own."""
    directory.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(embedded_redis(directory / "redis"))
        settings = Settings(redis_url=url, state=directory / "state", device="cpu", tokens_per_batch=1024)
        store = JobStore(connect(url))
        for _ in range(workers):
            stack.enter_context(_worker(settings))
        stack.enter_context(reconciling(settings))
        wait_until(lambda: len(live_workers(connect(url))) == workers)
        record = store.accept(new_record(JobRequest.model_validate(request)))
        JobQueue(connect(url, decode=False)).enqueue(record)
        measured_at = _follow(store, record)
        ended = store.get(record.tenant, record.id)
        if ended.status is not JobStatus.succeeded or ended.started_at is None or ended.finished_at is None:
            raise RuntimeError(f"the job {ended.status}: {ended.error}")
        assert committed_manifest(Storage(settings.artifacts_url), record.tenant, record.id) is not None
        first = next(
            event.at.timestamp()
            for event in store.events(record.tenant, record.id, limit=1000)
            if event.type == "stage" and event.data["stage"] == "evaluate_dense"
        )
        whole = (ended.finished_at - ended.started_at).total_seconds()
        return round(whole, 2), round(measured_at - first, 2)


def _follow(store: JobStore, record: JobRecord) -> float:
    """The time at which the stages that shards divide were over; returns at the end of the job."""
    measured_at = 0.0
    while not (now := store.get(record.tenant, record.id)).status.is_terminal:
        is_over = (
            now.stage not in (None, "fetch", "load", "evaluate_dense", "attribute")
            if now.shards is None
            else not now.open_shards
        )
        if is_over and not measured_at:
            measured_at = time.time()
        time.sleep(POLL_SECONDS)
    return measured_at


@contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    names = ("redis_url", "state", "device", "tokens_per_batch")
    mine = {f"SLIM_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment = os.environ | mine | {"OMP_NUM_THREADS": "1"}
    with (settings.state.parent / "worker.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
