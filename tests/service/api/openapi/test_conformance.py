"""Conformance of the server to its OpenAPI document, with requests that schemathesis generates.

Many requests have the ids of a stored job, its files, score sets and a data set. No worker runs, so that jobs of other
requests stay queued.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from redis import Redis

from service.api.app import create_app
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.api_process import api
from tests.support.tenants import COLUMNS, KNOWN, knowing, stock

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, WORDS)), min_size=1, max_size=5)
# Their examples name object stores that are not there, each of which is waited for: only the slow test does.
NAMING_PLACES = ("POST /jobs", "POST /plans")
QUERIED = {"/overlap": "scores", "/compare": "jobs"}  # path -> the parameter of its query that names resources
EXAMPLES = 12  # a fast look at every other operation; the slow test looks 20 times as long
MANY = 5000
checked: Counter[str] = Counter()  # operation -> requests of the slow test


def json_lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv(rows: list[dict[str, str]]) -> bytes:
    return "".join(",".join(line) + "\n" for line in [tuple(rows[0]), *(row.values() for row in rows)]).encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


for media_type, write in (
    ("application/jsonl", json_lines),
    ("text/csv", csv),
    ("application/vnd.apache.parquet", parquet),
):
    schemathesis.openapi.media_type(media_type, ROWS.map(write))


@pytest.fixture(scope="module")
def deployment(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    """The URL of a server process, and its settings."""
    directory = tmp_path_factory.mktemp("conformance")
    settings = Settings(redis_url=redis_server, state=directory / "state")
    with api(settings, directory / "log") as url:
        yield url, settings


@pytest.fixture
def server(deployment: tuple[str, Settings], redis: Redis) -> str:
    """The URL of the server, with a stored job, data set and score sets even if an earlier test deleted them."""
    url, settings = deployment
    stock(redis, Storage(settings.artifacts_url))
    return url


def reads_one_resource(path: str) -> bool:
    """Whether an operation with the path reads resources by their names."""
    return "{" in path or path in QUERIED


def send_and_check(case: Any, server: str) -> None:
    """Send a request and run all checks. A request with files or URLs may be refused, or get 503."""
    if case.operation.label not in NAMING_PLACES:
        case.call_and_validate(base_url=server)
        return
    response = case.call(base_url=server, timeout=120)
    if response.status_code != 503 or response.json()["code"] != "storage_unavailable":
        case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])


schema = schemathesis.openapi.from_dict(knowing(create_app(Settings()).openapi()))
SHOWN = [
    f"GET {path}"
    for path, methods in schema.raw_schema["paths"].items()
    if "get" in methods and reads_one_resource(path)
]


@pytest.mark.parametrize("label", SHOWN)
def test_existing_resources_conform_to_the_document(label: str, server: str) -> None:
    method, path = label.split()
    known = {name: values[0] for name, values in KNOWN.items()}
    case = schema[path][method].Case(
        path_parameters={name: known[name] for name in re.findall("{(.*?)}", path)},
        query={QUERIED[path]: known[QUERIED[path]]} if path in QUERIED else {},
    )
    assert case.call_and_validate(base_url=server).status_code == 200


@schema.exclude(lambda context: context.operation.label in NAMING_PLACES).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_generated_requests_get_responses_of_the_document(case: Any, server: str) -> None:
    send_and_check(case, server)


@pytest.fixture(scope="module")
def many_enough() -> Iterator[None]:
    """Check after the last test that a complete run has sent the promised number of requests."""
    yield
    whole = len(checked) == len(list(schema.get_all_operations()))
    assert not whole or checked.total() >= MANY, checked


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("many_enough")
@schema.parametrize()
@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_generated_requests_get_responses_of_the_document(case: Any, server: str) -> None:
    send_and_check(case, server)
    checked[case.operation.label] += 1
