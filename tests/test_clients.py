"""The OpenAPI document as other tools read it: a linter with its strictest rules, and a generated client.

The linter is installed from the npm registry; its test is skipped where that is not possible.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.app import create_app
from service.settings import Settings
from tests.support.api_process import api
from tests.support.job_requests import request_body

ROOT = Path(__file__).parents[1]
REDOCLY = "@redocly/cli@2.77.0"
# The generator knows JSON and plain bytes; rows of any format are bytes to a client.
[SHOWN_CONFIG] = re.findall(
    r"^echo '(.*?)' > generator\.json$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE | re.DOTALL
)
GENERATOR_CONFIG = json.loads(SHOWN_CONFIG) | {"post_hooks": []}  # no formatter is run over the client
PACKAGE = "generated_client"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the document in a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(create_app(Settings()).openapi()))
    return path


@pytest.fixture(scope="module")
def redocly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the linter, installed for this run."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("the linter needs node and npm")
    directory = tmp_path_factory.mktemp("redocly")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(directory)]
    install = subprocess.run(
        [npm, "install", *options, REDOCLY], capture_output=True, text=True, timeout=120, check=False
    )
    if install.returncode != 0:
        pytest.skip(f"npm cannot install {REDOCLY}: {install.stderr.strip()[-200:]}")
    return directory / "node_modules" / ".bin" / "redocly"


def test_openapi_document_passes_the_strictest_rules_of_redocly(redocly: Path, document: Path) -> None:
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    command = [str(redocly), "lint", "--extends", "recommended-strict", "--format", "json", document.name]
    linted = subprocess.run(command, env=os.environ | quiet, cwd=document.parent, capture_output=True, check=False)
    found = json.loads(linted.stdout)
    told = [
        (problem["ruleId"], problem["message"], problem["location"][0].get("pointer")) for problem in found["problems"]
    ]
    assert not told
    assert linted.returncode == 0


@pytest.fixture(scope="module")
def client_package(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A generated Python client that can be imported."""
    pytest.importorskip("openapi_python_client", reason="the generator is not installed: make setup")
    directory = tmp_path_factory.mktemp("client")
    config = directory / "config.json"
    config.write_text(json.dumps(GENERATOR_CONFIG))
    generate = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    options = ["--path", str(document), "--config", str(config), "--output-path", str(directory / PACKAGE)]
    generated = subprocess.run([*generate, *options], capture_output=True, text=True, check=False)
    assert generated.returncode == 0, generated.stdout + generated.stderr
    sys.path.insert(0, str(directory))
    yield
    sys.path.remove(str(directory))


def generated(module: str) -> Any:
    """A module of the generated client, without types."""
    return importlib.import_module(f"{PACKAGE}.{module}")


@pytest.fixture
def client(client_package: None, settings: Settings, tmp_path: Path) -> Iterator[Any]:
    """The generated client of a server process."""
    with api(settings, tmp_path / "api.log") as url, generated("client").Client(base_url=url) as client:
        yield client


def test_generated_client_submits_reads_lists_and_cancels_jobs(client: Any, tmp_path: Path) -> None:
    models = generated("models")
    request = models.JobRequest.from_dict(request_body(tmp_path) | {"tags": {"by": "client"}})

    submitted = generated("api.jobs.create_job").sync(client=client, body=request)
    found = generated("api.jobs.get_job").sync(submitted.id, client=client)
    listed = generated("api.jobs.list_jobs").sync(client=client, tag="by:client")
    cancelled = generated("api.jobs.cancel_job").sync(submitted.id, client=client)

    assert found.status == models.JobStatus.QUEUED
    assert found.request.target.ratio == request.target.ratio
    assert [job.id for job in listed.data] == [submitted.id]
    assert cancelled.status == models.JobStatus.CANCELLED


def test_generated_client_parses_a_problem(client: Any, tmp_path: Path) -> None:
    request = generated("models").JobRequest.from_dict(request_body(tmp_path) | {"target": {"ratio": 7}})

    answer = generated("api.jobs.create_job").sync_detailed(client=client, body=request)

    assert answer.status_code == 422
    assert answer.parsed.code == "invalid_request"
    assert answer.parsed.errors[0].param == "target.ratio"
