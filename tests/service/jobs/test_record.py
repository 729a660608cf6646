"""The hash of a job in Redis, and the JSON that clients get of it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.links import JobLinks
from service.contract.answers.job import Job, JobError, Progress, Stage
from service.contract.errors import UnreadableRecord
from service.jobs.leases import Lease
from service.jobs.record import decode, encode, encode_whole, new_record
from service.jobs.representation import job_json
from service.jobs.store import JobStore
from tests.support.contract_examples import REQUEST, result

LINKS = JobLinks("http://127.0.0.1:8000")
ERROR = JobError(code="invalid_data", message='line 3 says "ä"', param="task.calibration")


def check_representation(fields: dict[str, str]) -> None:
    """Compare the JSON of a hash with the record in it, and with the JSON of that record."""
    record = decode(fields)
    assert decode(encode_whole(record)) == record
    text = job_json(fields, LINKS.of(record.id))
    assert json.loads(text) == json.loads(job_json(record, LINKS.of(record.id)))
    job = Job.model_validate_json(text)
    for name in Job.model_fields.keys() - {"object", "links"}:
        assert getattr(job, name) == getattr(record, name), name


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
def test_json_of_a_job_equals_its_record_in_every_status(
    job_store: JobStore, end: Callable[[JobStore, Lease], object]
) -> None:
    job = job_store.accept(new_record(REQUEST.model_copy(update={"retention_days": 1.5})))
    check_representation(dict(job_store.get_fields(job.tenant, job.id)))
    lease = job_store.lease(job.tenant, job.id, 1, "w")
    check_representation(dict(job_store.get_fields(job.tenant, job.id)))
    end(job_store, lease)
    check_representation(dict(job_store.get_fields(job.tenant, job.id)))


@given(
    tags=st.dictionaries(st.text(max_size=64), st.text(max_size=256), max_size=16),
    created_at=st.datetimes(datetime(2001, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC)),
)
def test_json_of_a_job_keeps_any_tags_and_times(tags: dict[str, str], created_at: datetime) -> None:
    milliseconds = int(created_at.timestamp() * 1000)
    request = REQUEST.model_copy(update={"tags": tags})
    fields = {name: str(value) for name, value in encode(new_record(request)).items()}
    check_representation(fields | {"created_at": str(milliseconds)})


@pytest.mark.parametrize(
    "damage", [{"request": "{"}, {"progress": "{"}, {"created_at": "yesterday"}, {"attempt": "first"}]
)
def test_json_of_a_damaged_record_is_refused(damage: dict[str, str]) -> None:
    fields = {name: str(value) for name, value in encode(new_record(REQUEST)).items()} | {"created_at": "1"}
    with pytest.raises(UnreadableRecord):
        job_json(fields | damage, LINKS.of("x"))
