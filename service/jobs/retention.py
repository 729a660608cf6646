"""What is deleted, by a user or by time: a job, a data set or a score set, with everything that belongs to it.

Files go first and the record last, so that whatever breaks in between is found again and finished by the next try.
`slim:expiries` holds what has an end: `job/{tenant}/{id}`, `dataset/{tenant}/{id}`, `scores/{tenant}/{digest}` and
`rows/{tenant}/{job id}`, rows whose job was never made, -> Redis' milliseconds.
"""

from dataclasses import dataclass
from typing import cast

import structlog
from redis import Redis, RedisError

from service.contract.errors import NotFound, StorageUnavailable, TaskslimError, UnreadableRecord
from service.infrastructure.redis_client import now_ms
from service.infrastructure.redis_keys import EXPIRIES, deliveries_key
from service.jobs.record import JobRecord
from service.jobs.store import JobStore, check_finished
from service.storage.datasets import Uploads
from service.storage.inline_rows import InlineRows
from service.storage.keys import job_prefix
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.storage_quota import StoredBytes

SWEEP_SECONDS = 60.0
AT_ONCE = 100
PUT_OFF_MS = 3_600_000  # until what cannot be read is tried again, so that those behind it have their turn

log = structlog.get_logger()


@dataclass(frozen=True)
class Retention:
    """Deletes."""

    redis: Redis
    job_store: JobStore
    uploads: Uploads
    scores: ScoreSets
    storage: Storage
    stored: StoredBytes

    def delete_job(self, record: JobRecord) -> None:
        """Everything of a finished job; `Conflict` while it is not finished."""
        check_finished(record)
        self.forget_job(record.tenant, record.id)

    def forget_job(self, tenant: str, job_id: str) -> None:
        """Everything of a job that no worker will write to any more, whether or not its record can be read."""
        self.storage.delete_prefix(job_prefix(tenant, job_id))
        self._rows.drop(tenant, job_id)
        self.stored.record(tenant, f"job/{job_id}", 0)
        self.redis.delete(deliveries_key(tenant, job_id))
        self.job_store.remove(tenant, job_id)
        self.redis.zrem(EXPIRIES, f"job/{tenant}/{job_id}")

    @property
    def _rows(self) -> InlineRows:
        return InlineRows(self.redis, self.storage, self.stored)

    def drop_files(self, record: JobRecord) -> None:
        """What attempts of a job have left that will have no other. Where that cannot be now, it is when the job
        expires."""
        try:
            self.storage.delete_prefix(job_prefix(record.tenant, record.id))
        except StorageUnavailable:
            log.warning("files of the job were left behind", exc_info=True, **record.log_fields)

    def sweep(self) -> int:
        """Delete what has expired; how much that was. What cannot be deleted now is tried again in the next sweep."""
        now = now_ms(self.redis)
        due = cast(list[str], self.redis.zrangebyscore(EXPIRIES, 0, now, start=0, num=AT_ONCE))
        return sum(self._try(member, now) for member in due)

    def _try(self, member: str, now: int) -> bool:
        """One record that cannot be read is put off and holds no other up; what Redis cannot do now, it can do for
        none of them."""
        try:
            return self._expire(member)
        except RedisError:
            raise
        except Exception:
            log.exception("not deleted, because it cannot be read", item=member)
            self.redis.zadd(EXPIRIES, {member: now + PUT_OFF_MS}, xx=True)
            return False

    def _expire(self, member: str) -> bool:
        kind, tenant, item = member.split("/")
        try:
            match kind:
                case "job":
                    self.delete_job(self.job_store.get(tenant, item))
                case "rows" if self.job_store.exists(tenant, item):  # a repeat of the request was cut short
                    self.redis.zrem(EXPIRIES, member)
                    return False
                case "rows":
                    self._rows.drop(tenant, item)
                case "scores":
                    self.scores.delete(tenant, item)
                case _:
                    self.uploads.forget(tenant, item)
        except NotFound:
            self.redis.zrem(EXPIRIES, member)
            return False
        except UnreadableRecord:  # no sweep will find it otherwise: `_try` puts it off
            raise
        except TaskslimError:
            log.warning("could not be deleted", kind=kind, tenant=tenant, item=item, exc_info=True)
            return False
        log.info("expired", kind=kind, tenant=tenant, item=item)
        return True
