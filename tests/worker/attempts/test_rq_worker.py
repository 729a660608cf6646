"""The RQ worker, with the queue of the test's Redis."""

import pytest

from service.infrastructure.redis_client import connect
from service.jobs.rq_jobs import SERIALIZER, RqJob
from service.settings import Settings
from tests.support.foreign_rq_jobs import FOREIGN, put_foreign_rq_job
from tests.support.jobs import environment
from worker.attempts import rq_worker
from worker.attempts.rq_worker import SlimWorker


@pytest.mark.slow
def test_foreign_rq_job_without_a_timeout_is_refused_and_the_worker_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ looks at the timeout when the process has run for longer than an interval, which its imports take."""
    monkeypatch.setattr(rq_worker, "MONITORING_SECONDS", 1)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    redis = connect(settings.redis_url, decode=False)
    put_foreign_rq_job(redis, ["os.getcwd", None, [], {}])
    SlimWorker(settings.redis_url, "worker").work(burst=True)
    result = RqJob.fetch(FOREIGN, connection=redis, serializer=SERIALIZER).latest_result()
    assert result is not None
    assert "PermissionError" in (result.exc_string or "")
