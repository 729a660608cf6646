"""A record as JSON text is the record: what polls get is what everybody else gets."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.links import JobLinks
from service.contract.errors import UnreadableRecord
from service.contract.job import JobError, Progress, Stage
from service.jobs.record import as_json, decode, encode, new_record
from service.jobs.store import JobStore, Lease
from tests.support.contract_examples import REQUEST, result

LINKS = JobLinks("http://127.0.0.1:8000")
ERROR = JobError(code="invalid_data", message='line 3 says "ä"', param="task.calibration")


def seen_alike(fields: dict[str, str]) -> None:
    record = decode(fields)
    links = LINKS.of(record.id)
    assert json.loads(as_json(fields, links)) == json.loads(record.job(links).model_dump_json())


@pytest.mark.parametrize(
    "end",
    [
        lambda job_store, lease: job_store.succeed(lease, result()),
        lambda job_store, lease: job_store.fail(lease, ERROR),
        lambda job_store, lease: job_store.hand_back(lease),
        lambda job_store, lease: job_store.set_stage(lease, Stage.slice, Progress(fraction=0.25, eta_seconds=7.5)),
        lambda job_store, lease: job_store.cancel(lease.job.tenant, lease.job.id),
    ],
)
def test_a_record_is_the_same_as_text_and_as_an_object_at_every_point_of_its_life(
    job_store: JobStore, end: Callable[[JobStore, Lease], object]
) -> None:
    job = job_store.accept(new_record(REQUEST.model_copy(update={"retention_days": 1.5})))
    seen_alike(dict(job_store.get_fields(job.tenant, job.id)))
    lease = job_store.lease(job.tenant, job.id, 1, "w")
    seen_alike(dict(job_store.get_fields(job.tenant, job.id)))
    end(job_store, lease)
    seen_alike(dict(job_store.get_fields(job.tenant, job.id)))


@given(
    tags=st.dictionaries(st.text(max_size=64), st.text(max_size=256), max_size=16),
    created_at=st.datetimes(datetime(2001, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC)),
)
def test_any_tags_and_times_are_the_same(tags: dict[str, str], created_at: datetime) -> None:
    milliseconds = int(created_at.timestamp() * 1000)
    request = REQUEST.model_copy(update={"tags": tags})
    fields = {name: str(value) for name, value in encode(new_record(request)).items()}
    seen_alike(fields | {"created_at": str(milliseconds)})


@pytest.mark.parametrize(
    "damage", [{"request": "{"}, {"progress": "{"}, {"created_at": "yesterday"}, {"attempt": "first"}]
)
def test_a_damaged_record_cannot_be_read(damage: dict[str, str]) -> None:
    fields = {name: str(value) for name, value in encode(new_record(REQUEST)).items()} | {"created_at": "1"}
    with pytest.raises(UnreadableRecord):
        as_json(fields | damage, LINKS.of("x"))
