"""The server does what its OpenAPI document says, whatever it is sent: schemathesis makes the requests and judges.

Part of what it sends names real places on this machine; nothing is there to be slimmed, so no job gets far.
"""

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from service.app import create_app
from service.settings import Settings
from tests.api import api

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"text": WORDS, "label": WORDS}), min_size=1, max_size=5)
# Their examples name object stores that are not there, each of which is waited for: only the slow test does.
NAMING_PLACES = ("POST /jobs", "POST /plans")
EXAMPLES = 12  # a fast look at every other operation; the slow test looks 20 times as long


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
def server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server process."""
    directory = tmp_path_factory.mktemp("conformance")
    with api(Settings(redis_url=redis_server, state=directory / "state"), directory / "log") as url:
        yield url


def judge(case: Any, server: str) -> None:
    """All checks, save that what a request names need not be there: it may be refused, or its store may be away."""
    if case.operation.label not in NAMING_PLACES:
        case.call_and_validate(base_url=server)
        return
    response = case.call(base_url=server, timeout=120)
    if response.status_code != 503 or response.json()["code"] != "storage_unavailable":
        case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])


schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@schema.exclude(lambda context: context.operation.label in NAMING_PLACES).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case: Any, server: str) -> None:
    judge(case, server)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@schema.parametrize()
@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_five_thousand_answers_are_as_the_document_says(case: Any, server: str) -> None:
    judge(case, server)
