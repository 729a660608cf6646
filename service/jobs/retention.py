"""Retention: deletes jobs, data sets and score sets with all their files, on request or when they expire.

Files are deleted first and the record last, so that the next try finds and finishes a deletion that broke off.
`slim:expiries` maps `job/{tenant}/{id}`, `dataset/{tenant}/{id}`, `scores/{tenant}/{digest}` and `rows/{tenant}/{job
id}` (inline rows whose job was never created) to the time of expiry by Redis' clock, in milliseconds.
"""

from dataclasses import dataclass
from typing import cast

import structlog
from redis import Redis, RedisError

from service.contract.errors import NotFound, TaskslimError, UnreadableRecord
from service.infrastructure.redis_client import now_ms
from service.infrastructure.redis_keys import EXPIRIES, deliveries_key, expiry_member
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
UNREADABLE_RETRY_MS = 3_600_000  # an item that cannot be read is tried again after the others

log = structlog.get_logger()


@dataclass(frozen=True)
class Retention:
    """Deletes jobs, data sets and score sets."""

    redis: Redis
    job_store: JobStore
    uploads: Uploads
    scores: ScoreSets
    storage: Storage
    stored: StoredBytes

    def delete_job(self, record: JobRecord) -> None:
        """Delete a finished job. Raises Conflict where it is not finished."""
        check_finished(record)
        self.forget_job(record.tenant, record.id)

    def forget_job(self, tenant: str, job_id: str) -> None:
        """Delete a job that no worker runs, whether or not its record can be read."""
        self.storage.delete_prefix(job_prefix(tenant, job_id))
        self._rows.drop(tenant, job_id)
        self.stored.record(tenant, f"job/{job_id}", 0)
        self.redis.delete(deliveries_key(tenant, job_id))
        self.job_store.remove(tenant, job_id)
        self.redis.zrem(EXPIRIES, expiry_member("job", tenant, job_id))

    @property
    def _rows(self) -> InlineRows:
        return InlineRows(self.redis, self.storage, self.stored)

    def sweep(self) -> int:
        """Delete what has expired and return the number of items. The next sweep tries again what failed."""
        now = now_ms(self.redis)
        due = cast(list[str], self.redis.zrangebyscore(EXPIRIES, 0, now, start=0, num=AT_ONCE))
        return sum(self._try(member, now) for member in due)

    def _try(self, member: str, now: int) -> bool:
        """Delete one item. One that cannot be read is deferred behind the others; errors of Redis are raised."""
        try:
            return self._expire(member)
        except RedisError:
            raise
        except Exception:
            log.exception("expired item not deleted: it cannot be read", item=member)
            self.redis.zadd(EXPIRIES, {member: now + UNREADABLE_RETRY_MS}, xx=True)
            return False

    def _expire(self, member: str) -> bool:
        kind, tenant, item = member.split("/")
        try:
            match kind:
                case "job":
                    self.delete_job(self.job_store.get(tenant, item))
                case "rows" if self.job_store.exists(tenant, item):  # a repeated request stored them and then broke off
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
        except UnreadableRecord:  # `_try` defers it
            raise
        except TaskslimError:
            log.warning("expired item not deleted", kind=kind, tenant=tenant, item=item, exc_info=True)
            return False
        log.info("expired", kind=kind, tenant=tenant, item=item)
        return True
