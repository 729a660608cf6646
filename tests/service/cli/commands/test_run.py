"""`taskslim run`: the commands and requests that it prints, and what it refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from service.cli.serving.questions import MAX_BIAS, question
from service.cli.serving.servers import SERVERS
from service.contract.answers.report import Report
from service.contract.answers.task_file import ShippedTask, TaskFile
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.command_line import Taskslim
from tests.support.contract_examples import REQUEST, report
from tests.support.finished_jobs import FILES, finish

RUNTIMES = [{"name": name, "loads": True} for name in SERVERS]
OWN_WIDTHS = [
    {"name": "vllm", "loads": True, "reason": "with --trust-remote-code"},
    {"name": "mlx-lm", "loads": False, "reason": "its architectures have one width for all layers"},
]


def shipped(**fields: Any) -> ShippedTask:
    return ShippedTask.model_validate(
        {
            "name": "reviews",
            "kind": "classification",
            "template": "{text}, {more}: {{tone}}",
            "max_words": None,
            "max_tokens": 64,
            "special_tokens": True,
            "decoder_tokens": [],
            "label_prefix": " ",
            "labels": {"0": "negative", "1": "positive"},
            "answer_tokens": {"0": [7], "1": [9]},
            "label_offsets": {"0": -0.5, "1": 0.25},
            "decoding": "most_likely_label",
            "max_new_tokens": None,
            "metric": "accuracy",
        }
        | fields
    )


def files_of(task: ShippedTask, *, runtimes: list[dict[str, Any]] = RUNTIMES, loader: str = "LlamaForCausalLM") -> Any:
    """The files of a job, and their report."""
    job = new_record(JobRequest.model_validate(REQUEST.model_dump()))
    made = report(job, 1).model_dump()
    made["result"]["verified"]["loader"] = loader
    whole = Report.model_validate(made | {"runtimes": runtimes})
    files = {"report.json": whole.model_dump_json().encode()}
    return FILES | files | {"model/task.json": TaskFile(tasks=[task]).model_dump_json().encode()}


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("runtime", "command"),
    [
        ("vllm", "vllm serve {0}/model --served-model-name slim --generation-config vllm"),
        ("mlx-lm", "mlx_lm.server --model {0}/model"),
        ("llama.cpp", "llama-server --model {0}/model-gguf/slim-q8_0.gguf --alias slim"),
    ],
)
def test_command_and_request_of_a_downloaded_job(
    taskslim: Taskslim, tmp_path: Path, runtime: str, command: str
) -> None:
    gguf = {f"model-gguf/slim-{dtype}.gguf": b"GGUF" for dtype in ("f16", "q8_0")}
    place = write(tmp_path / "files", files_of(shipped()) | gguf)
    shown = taskslim("run", place, "--runtime", runtime, "--port", 8123)
    assert shown.code == 0, shown.err
    serve, rest = shown.out.split("\n", 1)
    assert serve == f"{command.format(place)} --host 127.0.0.1 --port 8123"
    words = shlex.split(re.sub(r"^#.*$", "", rest, flags=re.MULTILINE).replace("\\\n", ""))
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8123/v1/completions"]
    body = json.loads(words[-1])
    assert body["prompt"] == "..., ...: {tone}"
    assert body["logit_bias"] == {"7": MAX_BIAS - 0.75, "9": MAX_BIAS}
    assert (body["max_tokens"], body["temperature"]) == (1, 0)
    assert body["model"] == ("default_model" if runtime == "mlx-lm" else "slim")


def test_files_of_a_job_are_downloaded_first(taskslim: Taskslim, job_store: JobStore, storage: Storage) -> None:
    job = job_store.accept(new_record(REQUEST))
    assert "its status is queued" in taskslim("run", job.id).err
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage, files_of(shipped()))
    download, serve = taskslim("run", job.id, "--runtime", "vllm", "--directory", "slim model").out.splitlines()[:2]
    assert download == f"taskslim download {job.id} 'slim model'"
    assert serve.startswith("vllm serve 'slim model/model'")


def test_model_with_own_widths_needs_the_code_of_its_checkpoint(taskslim: Taskslim, tmp_path: Path) -> None:
    files = files_of(shipped(), runtimes=OWN_WIDTHS, loader="PerLayerLlamaForCausalLM")
    place = write(tmp_path, files)
    assert "--trust-remote-code" in taskslim("run", place).out
    refused = taskslim("run", place, "--runtime", "mlx-lm")
    assert refused.code == 1
    assert "one width for all layers" in refused.err
    assert "--runtime vllm" in refused.err
    write(tmp_path, {"model-mlx/config.json": b"{}"})
    assert f"--model {tmp_path}/model-mlx" in taskslim("run", place, "--runtime", "mlx-lm").out


def test_runtime_that_cannot_be_started_is_refused(
    taskslim: Taskslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path, files_of(shipped()))
    refused = taskslim("run", place, "--runtime", "llama.cpp")
    assert (refused.code, "output.formats: [gguf]" in refused.err) == (1, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    away = taskslim("run", place, "--runtime", "vllm", "--start")
    assert away.code == 1
    assert "vllm is not installed here: pip install vllm" in away.err


def test_further_options_go_to_the_server(taskslim: Taskslim, tmp_path: Path) -> None:
    shown = taskslim("run", write(tmp_path, files_of(shipped())), "--runtime", "vllm", "--", "--max-model-len", "64")
    assert shown.out.splitlines()[0].endswith(" --port 8080 --max-model-len 64")


def test_installed_runtime_is_preferred(taskslim: Taskslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write(tmp_path / "files", files_of(shipped()))
    program = tmp_path / "mlx_lm.server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert taskslim("run", place).out.startswith("mlx_lm.server ")


@pytest.mark.parametrize(
    ("task", "loader", "reason"),
    [
        (shipped(), "BertForSequenceClassification", "no server"),
        (shipped(kind="regression", decoding="output", metric="pearson"), "LlamaForCausalLM", "regression task"),
    ],
)
def test_task_that_no_server_answers_is_refused(
    taskslim: Taskslim, tmp_path: Path, task: ShippedTask, loader: str, reason: str
) -> None:
    refused = taskslim("run", write(tmp_path, files_of(task, loader=loader)))
    assert refused.code == 1
    assert reason in refused.err
    assert "the report's snippet" in refused.err


def test_job_without_a_model_is_refused(taskslim: Taskslim, tmp_path: Path) -> None:
    files = files_of(shipped())
    files = {name: content for name, content in files.items() if not name.startswith("model/")}
    assert "taskslim apply" in taskslim("run", write(tmp_path, files)).err


def test_text_is_generated_greedily_up_to_the_longest_target() -> None:
    task = shipped(kind="generation", labels={}, answer_tokens={}, label_offsets={}, decoding="greedy", max_words=5)
    asked = question(task.model_copy(update={"max_new_tokens": 12}), "vllm", "slim")
    assert asked.body == {"model": "slim", "prompt": "..., ...: {tone}", "temperature": 0, "max_tokens": 12}
    assert any("first 5 words" in note for note in asked.notes)
    chat = task.model_copy(update={"messages": "messages", "template": None, "max_new_tokens": 12})
    assert question(chat, "vllm", "slim").path == "/v1/chat/completions"


def test_labels_that_a_bias_cannot_tell_apart_have_no_request() -> None:
    several = question(shipped(answer_tokens={"0": [7, 8], "1": [9]}), "vllm", "slim")
    assert several.body is None
    assert any("several tokens" in note for note in several.notes)
    chat = question(shipped(messages="messages", template=None), "vllm", "slim")
    assert chat.body is None


def test_special_tokens_of_the_template_are_not_added_again() -> None:
    task = shipped(special_tokens=False)
    body = question(task, "vllm", "slim").body
    assert body is not None
    assert body["add_special_tokens"] is False
    assert any("special tokens" in note for note in question(task, "mlx-lm", "default_model").notes)
