"""The README is true: its walk runs as it is written, and its tables name what there is."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from redis import Redis

from service.api.app import create_app
from service.api.openapi.examples import INLINE
from service.cli.demo.server import running_server
from service.contract.catalog import Health, Problem
from service.contract.criteria import Criterion
from service.contract.job import JobPage, JobStatus
from service.contract.presets import resolve
from service.contract.request import JobRequest
from service.contract.result import Result
from service.settings import Settings
from tests.support import http
from tests.support.api_process import api
from tests.support.job_requests import request_body
from tests.support.walkthrough import README, ROOT, blocks, section, walk, walkable_model

HOME = "~/.local/state/taskslim"
# What the table tells of in one row, since its fields are those of another.
LIKE = {"task.evaluation.": "task.calibration.", "tasks.": "task.", "observe.": "task."}
ALIKE = re.compile("|".join(map(re.escape, LIKE)))


def table(title: str) -> dict[str, list[str]]:
    """The rows of a section's table: the first column's code -> the other cells."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section(title), flags=re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in rows}


# --- the walk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return walkable_model(tmp_path / "model")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`taskslim serve`, with everything of its own."""
    with running_server(tmp_path / "state") as url:
        yield url


def test_the_walk_runs_as_it_is_written(server: str, model: Path, tmp_path: Path) -> None:
    job = walk(tmp_path, URL=server, MODEL=model.as_uri())
    assert http.get(job).status_code == 404


def test_what_clients_are_told_to_send_works(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(request_body(tmp_path)))
    said = [
        content for title in ("Clients", "Keys") for language, content in blocks(section(title)) if language == "sh"
    ]
    with api(settings, tmp_path / "log") as url:
        own = {"URL": url, "SLIM_REDIS_URL": settings.redis_url, "COLUMNS": "200"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        script = "\n".join(["set -euo pipefail", *said])
        command, env = ["bash", "-c", script], os.environ | own | {"PATH": path}
        run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    page = JobPage.model_validate_json((tmp_path / "page.json").read_bytes())
    assert [job.status for job in page.data] == [JobStatus.cancelled]
    unchanged, rest = run.stdout.split("\n", 1)
    assert unchanged == "304"
    events, rest = rest.split('{"id":"01', 1)
    assert re.findall(r'"status":"(\w+)"', events) == ["cancelled"]
    assert '"uri":"dataset://01' in rest
    assert 'ratelimit: "requests";r=' in rest
    assert '{"data":[],' in rest
    assert re.search(r"ci +jobs:read artifacts:read +valid", rest)
    assert rest.rstrip().endswith("is revoked")


def test_the_answers_that_the_readme_shows_are_of_the_present_form() -> None:
    shown = [json.loads(content) for language, content in blocks(section("A walk with curl")) if language == "json"]
    schemas: tuple[type[BaseModel], ...] = (Health, Result, Problem)
    for example, schema in zip(shown, schemas, strict=True):
        schema.model_validate(example)


# --- the tables ----------------------------------------------------------------------------------------------------


def parts(annotation: Any) -> list[Any]:
    """What an annotation is made of, without Annotated, unions and containers."""
    if get_origin(annotation) in (Union, UnionType, list):
        return [part for argument in get_args(annotation) for part in parts(argument)]
    return [annotation]


def fields(schema: type[BaseModel], prefix: str = "") -> dict[str, list[Any]]:
    """Dotted name -> types, of every field that a request can have."""
    found: dict[str, list[Any]] = {}
    for name, field in schema.model_fields.items():
        types = parts(field.annotation)
        inner = [part for part in types if isinstance(part, type) and issubclass(part, BaseModel)]
        found |= fields(inner[0], f"{prefix}{name}.") if inner else {f"{prefix}{name}": types}
    return found


def test_the_request_table_names_every_field_and_every_choice() -> None:
    named = table("The request")
    expected = {name: types for name, types in fields(JobRequest).items() if not ALIKE.match(name)}
    alike = {ALIKE.sub(lambda found: LIKE[found[0]], name) for name in fields(JobRequest) if ALIKE.match(name)}
    assert {name.replace("evaluation.", "calibration.") for name in alike} <= expected.keys()
    assert named.keys() == expected.keys() | {f"{name}*" for name in LIKE}
    for name, types in expected.items():
        for choice in (value for part in types if isinstance(part, type) and issubclass(part, Enum) for value in part):
            assert f"`{choice.value}`" in named[name][1], name


def test_the_list_of_criteria_has_a_sentence_for_each() -> None:
    listed = re.findall(r"^- \*\*`(\w+)`\*\*: ", section("The request"), flags=re.MULTILINE)
    assert {name for name in listed if name in set(Criterion)} == set(Criterion)


def test_the_fragments_of_requests_are_of_the_present_form() -> None:
    shown = [json.loads(content) for language, content in blocks(section("The request")) if language == "json"]
    assert len(shown) == 3
    for fragment in shown:
        resolve(JobRequest.model_validate(INLINE | fragment).slimmed_for[0])


def test_the_routes_table_names_every_route() -> None:
    document = create_app(Settings()).openapi()
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert table("Routes").keys() == served | {"GET /"}


def test_the_settings_table_names_every_variable_with_its_default() -> None:
    named = table("Settings")
    assert named.keys() == {f"SLIM_{name.upper()}" for name in Settings.model_fields}
    plain = Settings(state=Path(HOME))
    for variable, (default, _) in named.items():
        value = getattr(plain, variable.removeprefix("SLIM_").lower())
        shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert default == (f"`{shown}`" if value or value is False else ""), variable


def test_the_layout_names_every_module() -> None:
    tree = next(content for language, content in blocks(section("Layout")) if language == "text")
    named, folder = set(), [""]
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folder = [*folder[: depth + 1], name]
        if name.endswith(".py"):
            named.add("".join(folder))
    present = {
        str(path.relative_to(ROOT))
        for package in ("service", "worker")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == present


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
