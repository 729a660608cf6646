"""Submission: checks a request, stores its inline rows, and creates the queued job.

The record and the RQ job are written in one step, so a process that dies leaves both or neither. Rows of a request that
is refused after they were stored are deleted again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from redis import RedisError

from service.contract.errors import StorageUnavailable, TaskslimError
from service.contract.request.job_request import JobRequest
from service.infrastructure.outbound_http import parse_url
from service.infrastructure.tracing import traceparent
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.planning.admission import check_request
from service.planning.feasibility import Feasibility
from service.settings import Settings
from service.sources.access import Access
from service.sources.uri_policy import UriPolicy
from service.storage.inline_rows import InlineRows, take_rows
from service.storage.object_store import Storage
from service.tenants.api_keys import Caller
from service.tenants.origins import is_loopback
from service.tenants.storage_quota import StoredBytes

log = structlog.get_logger()


def access_of(caller: Caller, settings: Settings, storage: Storage) -> Access:
    """The sources that a caller may name: all on a server that only this machine reaches, else the allowed ones."""
    if caller.key_id is None and is_loopback(settings.host):
        return Access(storage, caller.tenant, True, settings.local_roots)
    policy = UriPolicy(settings.artifacts_url, settings.allowed_uris)
    has_roots = bool(settings.local_roots)
    return Access(storage, caller.tenant, has_roots, settings.local_roots, policy, settings.output_uris)


def check_webhook(request: JobRequest, settings: Settings) -> None:
    """Raise UnsafeUrl for a webhook's URL that the deployment does not allow."""
    if request.webhook is not None:
        parse_url(request.webhook.url, settings.webhook_hosts)


@dataclass(frozen=True)
class Submission:
    """Accepts requests for jobs."""

    job_store: JobStore
    storage: Storage
    stored: StoredBytes
    settings: Settings
    feasibility: Feasibility = field(default_factory=Feasibility)

    def submit(self, request: JobRequest, caller: Caller, job_id: str) -> JobRecord:
        """Create the queued job. A second call with the same id returns the job of the first."""
        self._check(request, caller)
        kept, rows = take_rows(self._with_defaults(request), job_id)
        record = new_record(kept, tenant=caller.tenant, job_id=job_id)
        origin = {"request_id": structlog.contextvars.get_contextvars().get("request_id"), "trace": traceparent()}
        record = self._record(record.model_copy(update=origin), rows, limited=caller.key_id is not None)
        log.info("job accepted", key_id=caller.key_id, **record.log_fields)
        return record

    def _check(self, request: JobRequest, caller: Caller) -> None:
        check_webhook(request, self.settings)
        if caller.key_id is not None:
            self.stored.check_quota(caller.tenant, self.settings.max_stored_bytes)
        access = access_of(caller, self.settings, self.storage)
        self.feasibility.check(request, check_request(request, access))

    def _with_defaults(self, request: JobRequest) -> JobRequest:
        """The request with the deployment's defaults filled in, so that the job's record has them."""
        days = request.retention_days or self.settings.retention_days
        return request.model_copy(update={"retention_days": days})

    def _record(self, record: JobRecord, rows: Mapping[str, bytes], *, limited: bool) -> JobRecord:
        """Store the rows and create the record.

        After an error of Redis the record may or may not exist, so the rows stay. Without a record they expire.
        """
        max_bytes = self.settings.max_stored_bytes if limited else None
        max_queued = self.settings.max_queued_jobs if limited else None
        try:
            self._rows.keep(rows, tenant=record.tenant, job_id=record.id, quota=max_bytes)
            return self.job_store.accept(record, max_queued=max_queued, max_running=self.settings.max_running_jobs)
        except TaskslimError:
            self._drop_rows(record)
            raise

    @property
    def _rows(self) -> InlineRows:
        return InlineRows(self.job_store.redis, self.storage, self.stored)

    def _drop_rows(self, record: JobRecord) -> None:
        """Delete the rows of a refused request, unless the request was sent before and created the job."""
        try:
            if not self.job_store.exists(record.tenant, record.id):
                self._rows.drop(record.tenant, record.id)
        except (RedisError, StorageUnavailable):
            log.warning("inline rows were left to expire", exc_info=True, **record.log_fields)
