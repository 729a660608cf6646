"""README.md, docs/ and benchmarks/RESULTS.md: their commands run, and their examples, figures and links are valid."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from redis import Redis
from rich.console import Console

from benchmarks.parts.quality import tables
from benchmarks.parts.quality.store import Store
from service.api.openapi.examples import INLINE
from service.cli.demo.server import running_server
from service.cli.demo.table import demo_table
from service.contract.answers.catalog import Health, Problem
from service.contract.answers.job import Job, JobPage, JobStatus
from service.contract.answers.result import Result
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import resolve
from service.settings import Settings
from service.webhooks.signing import new_secret, signed_headers
from tests.support.api_process import api
from tests.support.documents import COMMAND, PATHS, RESULT_PAGES, RESULTS, ROOT, SCRIPT, blocks, read, section
from tests.support.job_requests import model_directory, request_body
from tests.support.walkthrough import PAGE, run_walkthrough, tiny_llama

MAX_LINES = {"README.md": 200, RESULTS: 250}
# Documents whose `sh` blocks a test of this module runs.
RUN = {"README.md", PAGE, "docs/api.md", "docs/cli.md"}
RUN_PYTHON = {PAGE, "docs/api.md", "docs/pipelines.md"}  # the last one in tests/test_pipelines.py
# The start of a command in a `console` block -> why it is not run as it is.
NOT_RUN = {
    "make ": "installs packages or runs the whole suite; the targets are compared with the Makefile",
    "taskslim slim ": "waits for a job of minutes; tests/service/cli/commands/test_slim.py runs the same options",
    ".venv/bin/taskslim serve": "runs until it is stopped; every test of the walkthrough starts it",
    "taskslim rebase-adapter ": "tests/worker/checkpoints/adapters/test_rebasing.py runs it",
    "taskslim run ": "starts a server; tests/service/cli/commands/test_run.py and tests/test_serving.py start it",
    "taskslim privatise ": "tests/service/cli/commands/test_privatise.py runs the same options",
    "pip install ": "installs packages; tests/test_extras.py installs each extra",
    "pip wheel ": "tests/test_pipelines.py installs the package that it makes",
    "MODEL=": "tests/test_pipelines.py runs the same script with another model",
    "export ": "sets the variables of the commands below it",
    "docker compose ": "needs a container engine; tests/test_compose.py runs the same commands as processes",
    "taskslim api --host 0.0.0.0": "runs until it is stopped; tests/test_compose.py starts it",
    "CUDA_VISIBLE_DEVICES=": "needs a GPU; tests/test_compose.py starts the same command",
    "taskslim keys create --tenant search": "belongs to the deployment above it; docs/api.md runs the command",
    'echo \'{"content_type_overrides"': "tests/test_clients.py takes the configuration from the page",
    "openapi-python-client ": "tests/test_clients.py runs the generator",
}


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `taskslim serve` with a directory of its own."""
    with running_server(tmp_path_factory.mktemp("server") / "state") as url:
        yield url


@pytest.mark.slow
def test_the_walkthrough_runs_as_it_is_written(server: str, model: Path, tmp_path: Path) -> None:
    job = run_walkthrough(tmp_path, URL=server, MODEL=model.as_uri())
    assert httpx.get(job).status_code == 404


@pytest.mark.slow
def test_the_commands_of_the_readme_run_with_another_model(server: str, model: Path, tmp_path: Path) -> None:
    (script,) = [block.content for block in blocks(read("README.md"), SCRIPT)]
    for shown, used in (
        ("http://127.0.0.1:8000", server),
        ("hf://HuggingFaceTB/SmolLM2-135M-Instruct", model.as_uri()),
        ("'\"$PWD\"'", str(ROOT)),
    ):
        assert shown in script
        script = script.replace(shown, used)
    assert len(re.findall(r"^curl ", script, re.MULTILINE)) == 6
    output = run_script(script, tmp_path)
    assert '{"ok":true' in output
    assert '"status":"succeeded"' in output
    assert '"intermediate_size": 128' in output
    assert "<html" in (tmp_path / "report.html").read_text()


def test_the_commands_of_the_api_page_run(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(request_body(tmp_path)))
    script = "\n".join(block.content for block in blocks(read("docs/api.md"), SCRIPT))
    with api(settings, tmp_path / "log") as url:
        output = run_script(script, tmp_path, URL=url, SLIM_REDIS_URL=settings.redis_url, COLUMNS="200")
    page = JobPage.model_validate_json((tmp_path / "page.json").read_bytes())
    assert [job.status for job in page.data] == [JobStatus.cancelled]
    unchanged, rest = output.split("\n", 1)
    assert unchanged == "304"
    events, rest = rest.split('{"id":"01', 1)
    assert re.findall(r'"status":"(\w+)"', events) == ["cancelled"]
    assert '"uri":"dataset://01' in rest
    assert 'ratelimit: "requests";r=' in rest
    assert '{"data":[],' in rest
    assert re.search(r"ci +jobs:read artifacts:read +valid", rest)
    assert rest.rstrip().endswith("is revoked")


@pytest.mark.slow
def test_the_commands_of_the_command_line_page_run(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nfine,positive\ndull,negative\ngood,positive\nbad,negative\n")
    (tmp_path / "held-out.jsonl").write_text('{"text": "loud", "label": "negative"}\n')
    script = "\n".join(block.content for block in blocks(read("docs/cli.md"), SCRIPT))
    model = model_directory(tmp_path / "model")
    with api(settings, tmp_path / "log") as url:
        output = run_script(script, tmp_path, SLIM_URL=url, MODEL=model)
    job = Job.model_validate_json((tmp_path / "job.json").read_bytes())
    saved = JobRequest.model_validate_json((tmp_path / "request.json").read_bytes())
    assert job.request == saved.model_copy(update={"retention_days": job.request.retention_days})
    assert output == "cancelled\n"


def test_the_python_of_the_api_page_verifies_a_webhook() -> None:
    (snippet,) = blocks(read("docs/api.md"), "python")
    secret, body = new_secret(), b'{"type": "job.succeeded"}'
    variables = {"secret": secret, "body": body, "headers": signed_headers("one", datetime.now(UTC), body, [secret])}
    exec(snippet.content, variables)
    assert variables["message"] == {"type": "job.succeeded"}


def run_script(script: str, directory: Path, **variables: str) -> str:
    """The output of a script that succeeds; `taskslim` is that of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=directory,
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("path", [*PATHS, RESULTS])
def test_a_command_is_run_or_listed_with_the_reason(path: str) -> None:
    text = read(path)
    assert not blocks(text, "", "bash", "shell"), f"mark commands as `{SCRIPT}` or `{COMMAND}`"
    assert path in RUN or not blocks(text, SCRIPT), "no test runs the commands of this page"
    assert path in RUN_PYTHON or not blocks(text, "python"), "no test runs the Python of this page"
    for block in blocks(text, COMMAND):
        for command in re.split(r"\n(?! )", block.content.strip()):
            assert command.startswith(tuple(NOT_RUN)), command


def test_a_reason_for_not_running_a_command_belongs_to_a_command() -> None:
    shown = [block.content for path in [*PATHS, RESULTS] for block in blocks(read(path), COMMAND)]
    for start in NOT_RUN:
        assert any(line.startswith(start) for content in shown for line in content.splitlines()), start


@pytest.mark.parametrize("path", [*PATHS, *RESULT_PAGES])
def test_make_targets_and_benchmarks_that_are_shown_exist(path: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", read(path), re.MULTILINE)) <= targets
    for script, options in re.findall(r"(benchmarks/\w+\.py)((?: \[?--\w+\]?)*)", read(path)):
        source = (ROOT / script).read_text()
        for option in re.findall(r"\w+", options):
            assert option in source, f"{script} --{option}"


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "most"), MAX_LINES.items())
def test_a_document_is_short(path: str, most: int) -> None:
    assert len(read(path).splitlines()) <= most


def test_the_answers_of_the_walkthrough_are_valid() -> None:
    shown = [json.loads(block.content) for block in blocks(read(PAGE), "json")]
    schemas: tuple[type[BaseModel], ...] = (Health, Result, Problem)
    for example, schema in zip(shown, schemas, strict=True):
        assert schema.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_the_readme_shows_the_table_that_the_demo_prints() -> None:
    measured = json.loads(read("benchmarks/results/demo.json"))
    slim, random = (Result.model_validate(measured[name]) for name in ("slim", "random"))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(demo_table(slim, random))
    printed = re.sub(r" +$", "", console.export_text().replace("\N{NO-BREAK SPACE}", " "), flags=re.MULTILINE)
    assert printed in blocks(read("README.md"), "text")[0].content


def test_the_requests_that_are_shown_are_valid() -> None:
    shown = [value for block in blocks(read("docs/request.md"), "json") for value in json_values(block.content)]
    assert shown
    for fragment in shown:
        resolve(JobRequest.model_validate(INLINE | fragment).slimmed_for[0])


def json_values(text: str) -> Iterator[Any]:
    """The JSON values of a text, which stand one after the other."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        value, position = decoder.raw_decode(text, position)
        position += len(text[position:]) - len(text[position:].lstrip())
        yield value


@pytest.mark.parametrize("path", [*PATHS, *RESULT_PAGES, "CHANGELOG.md"])
def test_a_link_leads_to_a_file_and_a_heading(path: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", read(path)):
        file = (ROOT / path).parent / target if target else ROOT / path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_the_quality_tables_of_the_results_are_those_of_the_measurements() -> None:
    printed = tables.document(Store(ROOT / "benchmarks/results/quality.csv.gz").measurements).splitlines()
    page = read(RESULTS)
    for title in ("Every criterion with the same repair", "Finalists on all test rows"):
        rows = re.findall(r"^\| .*±.*\|$", section(page, title), re.MULTILINE)
        assert rows
        for row in rows:
            assert re.sub(r"^\| (SmolLM2|T5) ", "", row) in printed
