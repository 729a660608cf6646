"""The server does what its OpenAPI document says, whatever it is sent: schemathesis makes the requests and judges.

The ids that it sends are those of a job, its files, score sets and a data set that are there. Part of what it sends
names real places on this machine; nothing is there to be slimmed, so no other job gets far.
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
from tests.support.tenants import KNOWN, knowing, stock

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"text": WORDS, "label": WORDS}), min_size=1, max_size=5)
# Their examples name object stores that are not there, each of which is waited for: only the slow test does.
NAMING_PLACES = ("POST /jobs", "POST /plans")
EXAMPLES = 12  # a fast look at every other operation; the slow test looks 20 times as long
MANY = 5000
judged: Counter[str] = Counter()  # operation -> cases of the slow test


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
    """The URL of the server, which has one of everything, whatever was deleted before."""
    url, settings = deployment
    stock(redis, Storage(settings.artifacts_url))
    return url


def leads_somewhere(path: str) -> bool:
    """Whether an operation at the path shows one thing, by its id."""
    return "{" in path or path == "/overlap"


def judge(case: Any, server: str) -> None:
    """All checks, save that what a request names need not be there: it may be refused, or its store may be away."""
    if case.operation.label not in NAMING_PLACES:
        case.call_and_validate(base_url=server)
        return
    response = case.call(base_url=server, timeout=120)
    if response.status_code != 503 or response.json()["code"] != "storage_unavailable":
        case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])


schema = schemathesis.openapi.from_dict(knowing(create_app(Settings()).openapi()))
SHOWN = [
    f"GET {path}" for path, methods in schema.raw_schema["paths"].items() if "get" in methods and leads_somewhere(path)
]


@pytest.mark.parametrize("label", SHOWN)
def test_what_is_there_is_shown_as_the_document_says(label: str, server: str) -> None:
    method, path = label.split()
    known = {name: values[0] for name, values in KNOWN.items()}
    case = schema[path][method].Case(
        path_parameters={name: known[name] for name in re.findall("{(.*?)}", path)},
        query={"scores": known["scores"]} if path == "/overlap" else {},
    )
    assert case.call_and_validate(base_url=server).status_code == 200


@schema.exclude(lambda context: context.operation.label in NAMING_PLACES).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case: Any, server: str) -> None:
    judge(case, server)


@pytest.fixture(scope="module")
def many_enough() -> Iterator[None]:
    """Sees in the end, whatever the order of the tests, that a whole run has judged as many cases as it promises."""
    yield
    whole = len(judged) == len(list(schema.get_all_operations()))
    assert not whole or judged.total() >= MANY, judged


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("many_enough")
@schema.parametrize()
@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_very_many_answers_are_as_the_document_says(case: Any, server: str) -> None:
    judge(case, server)
    judged[case.operation.label] += 1
