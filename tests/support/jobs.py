"""A tiny job, and what runs it: real worker processes, or the process of the test."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import copy_context
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from service.contract.request.job_request import JobRequest
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.settings import Settings
from tests.support import tiny_models
from tests.support.quick_verification import verifying_here
from worker.tasks import run_job

TEMPLATE = "review {text} sentiment"
WORDS = ("good", "bad", "film", "plot", "actor", "scene", "long", "short", "loud", "calm")


def checkpoint(directory: Path) -> Path:
    """Save a Llama of two layers and a tokenizer with one token for each word."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "review", "sentiment", "positive", "negative", *WORDS]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    tiny_models.causal("llama").save_pretrained(directory)
    return directory


def rows_file(path: Path, count: int) -> Path:
    """A file of `count` reviews of three words; the first word decides the label."""
    lines = (
        {
            "text": f"{WORDS[index % 2]} {WORDS[index % 7]} {WORDS[index % 10]}",
            "label": ("positive", "negative")[index % 2],
        }
        for index in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def request(model: Path, rows: int, **overrides: Any) -> JobRequest:
    """A request whose `attribute` stage takes longer with more rows. The rows are in the model's directory."""
    task = {
        "kind": "classification",
        "template": TEMPLATE,
        "labels": {"positive": "positive", "negative": "negative"},
        "calibration": {"uri": rows_file(model / f"calibration-{rows}.jsonl", rows).as_uri()},
        "evaluation": {"uri": rows_file(model / "evaluation.jsonl", 20).as_uri()},
    }
    fields = {"model": {"uri": model.as_uri()}, "task": task, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
    return JobRequest.model_validate(fields | overrides)


def submit(settings: Settings, job: JobRequest) -> JobRecord:
    """Create the job and enqueue it."""
    record = job_store_of(settings).accept(new_record(job))
    JobQueue(connect(settings.redis_url, decode=False)).enqueue(record)
    return record


def job_store_of(settings: Settings) -> JobStore:
    return JobStore(connect(settings.redis_url), lease_seconds=settings.lease_seconds)


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings."""
    names = ("redis_url", "state", "lease_seconds", "heartbeat_seconds", "cancel_grace_seconds", "device", "standby")
    mine = {f"SLIM_{name.upper()}": str(getattr(settings, name)) for name in names}
    # Small batches: a tiny model's stage becomes long by their number.
    return os.environ | mine | {"SLIM_TOKENS_PER_BATCH": "32", "OMP_NUM_THREADS": "1"}


@contextmanager
def worker(settings: Settings, *options: str) -> Iterator[psutil.Process]:
    """Run a worker process, and kill it and its attempt at the end of the block. Its log is STATE/worker.log."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "worker", *options]
        process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def run_here(settings: Settings, job: JobRecord) -> None:
    """Run the first attempt of a job in this process, where torch is loaded already, and verify its checkpoint here.

    Its log goes to standard error.
    """
    with pytest.MonkeyPatch.context() as patch, verifying_here(), redirect_stdout(sys.stderr):
        for name, value in environment(settings).items():
            patch.setenv(name, value)
        copy_context().run(run_job, job.tenant, job.id, 1)  # the names that it binds for the log end with it
