"""What a second worker gains: one job on one worker, and the same job in two shards on two workers.

The workers run and wait before a job is submitted. Each computes with one thread.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from benchmarks.parts.scale.shapes import Shape, model
from service.contract.answers.job import JobStatus, Stage
from service.contract.request.job_request import JobRequest
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.reconciler import reconciling
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.settings import Settings
from tests.support.processes import find_attempt, wait_for_standby

SHAPE = Shape(hidden=256, width=1024, layers=4, vocabulary=512)
WORDS = [f"w{number}" for number in range(500)]
LENGTH = 60  # words of a row
EVALUATION_ROWS = 32
POLL_SECONDS = 0.1
BEFORE = (None, Stage.fetch, Stage.load, Stage.evaluate_dense)


@dataclass
class Measured:
    """Seconds of a job: of the whole, and of the stage `attribute` by the clock and by the processors."""

    whole: float = 0.0
    measuring: float = 0.0
    processor: dict[int, float] = field(default_factory=dict)  # process -> seconds of that stage


def run(directory: Path, rows: int) -> dict[str, float]:
    """Seconds of both jobs and the ratios. Raises RuntimeError.

    `two_worker_speedup` is that of the stage `attribute`: in a job without shards `evaluate_dense` also times the dense
    model, which shards leave to their last job. On a machine where other processes take turns, the ratio of processor
    seconds says what two free cores would give: those of one worker over those of the busier one.
    """
    request = _request(directory, rows)
    plain, sharded = (
        _job(directory / f"shards-{shards}", request | {"method": request["method"] | {"shards": shards}}, shards)
        for shards in (1, 2)
    )
    busiest = max(sharded.processor.values())
    return {
        "one_worker_seconds": round(plain.measuring, 2),
        "two_workers_seconds": round(sharded.measuring, 2),
        "two_worker_speedup": round(plain.measuring / sharded.measuring, 2),
        "one_worker_processor_seconds": round(sum(plain.processor.values()), 2),
        "two_workers_processor_seconds": round(busiest, 2),
        "two_worker_processor_speedup": round(sum(plain.processor.values()) / busiest, 2),
        "one_worker_job_seconds": round(plain.whole, 2),
        "two_workers_job_seconds": round(sharded.whole, 2),
        "two_worker_job_speedup": round(plain.whole / sharded.whole, 2),
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


def _job(directory: Path, request: dict[str, Any], workers: int) -> Measured:
    """Run a job in a deployment of its own, with as many workers as it has shards."""
    directory.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(embedded_redis(directory / "redis"))
        settings = Settings(redis_url=url, state=directory / "state", device="cpu", tokens_per_batch=1024)
        store = JobStore(connect(url))
        running = [stack.enter_context(worker(settings)) for _ in range(workers)]
        stack.enter_context(reconciling(settings))
        for each in running:
            wait_for_standby(each)
        record = store.accept(new_record(JobRequest.model_validate(request)))
        JobQueue(connect(url, decode=False)).enqueue(record)
        measured = _follow(store, record, running)
        ended = store.get(record.tenant, record.id)
        if ended.status is not JobStatus.succeeded or ended.started_at is None or ended.finished_at is None:
            raise RuntimeError(f"the job {ended.status}: {ended.error}")
        measured.whole = (ended.finished_at - ended.started_at).total_seconds()
        return measured


def _follow(store: JobStore, record: JobRecord, workers: Sequence[psutil.Process]) -> Measured:
    """Follow a job to its end and measure its stage `attribute`."""
    measured, started, before = Measured(), 0.0, dict[int, float]()
    while not (now := store.get(record.tenant, record.id)).status.is_terminal:
        is_over = not now.open_shards if now.shards else now.stage not in (*BEFORE, Stage.attribute)
        if now.stage is Stage.attribute and not is_over:
            started = started or time.monotonic()
            for process in filter(None, map(find_attempt, workers)):
                used = _processor_seconds(process)
                measured.processor[process.pid] = used - before.setdefault(process.pid, used)
        elif is_over and not measured.measuring:
            measured.measuring = time.monotonic() - started
        time.sleep(POLL_SECONDS)
    return measured


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def worker(settings: Settings) -> Iterator[psutil.Process]:
    """Run a worker."""
    names = ("redis_url", "state", "device", "tokens_per_batch")
    mine = {f"SLIM_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment = os.environ | mine | {"OMP_NUM_THREADS": "1"}
    with (settings.state.parent / "worker.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
