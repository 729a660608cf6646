"""The usage of a job that succeeded, where storage does not respond."""

import pytest
import structlog
from redis import Redis

from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.jobs.usage import record_usage
from service.storage.object_store import Storage
from tests.support.contract_examples import REQUEST
from tests.support.s3_server import credentials


def test_usage_that_cannot_be_recorded_is_logged(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in credentials("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    job = JobStore(redis).accept(new_record(REQUEST))
    with structlog.testing.capture_logs() as lines:
        record_usage(redis, Storage("s3://tests", retry_seconds=1), job.tenant, job.id)
    assert [(line["event"], line["job_id"]) for line in lines] == [("the usage of the job was not recorded", job.id)]
