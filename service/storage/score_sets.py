"""Score sets: the unit scores and the model's answers that jobs measured, stored for later jobs of the same tenant.

Redis: `slim:{tenant}:scores` (digests, ordered by the microsecond in which they were stored) and
`slim:{tenant}:scores:{digest}`, which names the file by its SHA-256. The file is written first, then the record, unless
there is one: a reader finds the file of one writer, or a file whose digest is wrong.
`slim:{tenant}:fingerprint:{fingerprint}` has the digests that serve a planned request, one for each task.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import structlog
from redis import Redis

from service.contract.answers.resources import MeasuredScores
from service.contract.errors import NotFound
from service.infrastructure.redis_keys import EXPIRIES, expiry_member
from service.infrastructure.redis_scripts import load_script
from service.storage.keys import score_key, score_prefix
from service.storage.object_store import Storage
from service.tenants.storage_quota import StoredBytes

log = structlog.get_logger()


class ScoreSets:
    """The score sets of all tenants."""

    def __init__(self, redis: Redis, storage: Storage) -> None:
        self._redis = redis
        self._storage = storage
        self._stored = StoredBytes(redis)
        self._forget = load_script(redis, "service.storage", "delete_score_record")

    def add(self, tenant: str, measured: MeasuredScores, content: bytes, *, days: float) -> None:
        """Store a set; `measured` has the size and the SHA-256 of `content`. A set that is stored already stays."""
        digest, mine = measured.digest, score_key(tenant, measured.digest, measured.sha256)
        self._storage.put_bytes(content, mine)
        expiry = datetime.now(UTC) + timedelta(days=days)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(record_key(tenant, digest), measured.model_dump_json(), nx=True)
            pipe.zadd(index_key(tenant), {digest: _microseconds(measured.created_at)}, nx=True)
            pipe.zadd(EXPIRIES, {expiry_member("scores", tenant, digest): _milliseconds(expiry)}, gt=True)
            is_first = bool(pipe.execute()[0])
        if is_first:
            self._stored.record(tenant, _item(digest), measured.size)
        others = [key for key, _ in self._storage.list(score_prefix(tenant, digest)) if key != mine]
        for key in others if is_first else self._unnamed(tenant, digest, mine):
            self._storage.delete(key)

    def _unnamed(self, tenant: str, digest: str, key: str) -> list[str]:
        """[key], unless the record names this key; then an empty list."""
        try:
            named = score_key(tenant, digest, self.get(tenant, digest).sha256)
        except NotFound:
            named = ""
        return [] if named == key else [key]

    def get(self, tenant: str, digest: str) -> MeasuredScores:
        """The record of a set. Raises NotFound, also for a set of another tenant."""
        text = cast(str | None, self._redis.get(record_key(tenant, digest)))
        if text is None:
            raise NotFound(f"there are no scores {digest!r}")
        return MeasuredScores.model_validate_json(text)

    def exists(self, tenant: str, digest: str) -> bool:
        """Whether the tenant has the set."""
        return bool(self._redis.exists(record_key(tenant, digest)))

    def content(self, tenant: str, digest: str) -> bytes | None:
        """The file of a set; None if there is none. A damaged set is deleted, with a warning in the log."""
        text = cast(str | None, self._redis.get(record_key(tenant, digest)))
        if text is None:
            return None
        sha256 = MeasuredScores.model_validate_json(text).sha256
        try:
            content = self._storage.get_bytes(score_key(tenant, digest, sha256))
        except NotFound:
            content = b""
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        log.warning("stored scores are damaged and will be measured again", tenant=tenant, digest=digest)
        keys = [record_key(tenant, digest), index_key(tenant), EXPIRIES]
        if self._forget(keys=keys, args=[text, digest, expiry_member("scores", tenant, digest)]):
            self._storage.delete(score_key(tenant, digest, sha256))
            self._stored.record(tenant, _item(digest), 0)
        return None

    def keep(self, tenant: str, digest: str, *, days: float) -> None:
        """Keep a set that was used for at least `days` from now."""
        expiry = datetime.now(UTC) + timedelta(days=days)
        self._redis.zadd(EXPIRIES, {expiry_member("scores", tenant, digest): _milliseconds(expiry)}, xx=True, gt=True)

    def note(self, tenant: str, fingerprint: str, digests: Sequence[str], *, days: float) -> None:
        """Store which sets serve requests with this fingerprint (`service.sources.fingerprints`)."""
        self._redis.set(fingerprint_key(tenant, fingerprint), " ".join(digests), px=timedelta(days=days))

    def serves(self, tenant: str, fingerprint: str) -> bool:
        """Whether every set is stored that requests with this fingerprint need."""
        digests = cast(str | None, self._redis.get(fingerprint_key(tenant, fingerprint)))
        return digests is not None and all(self.exists(tenant, digest) for digest in digests.split())

    def page(
        self, tenant: str, *, cursor: str | None = None, limit: int = 20
    ) -> tuple[list[MeasuredScores], str | None]:
        """(a page of sets, the newest first; the cursor of the next page, None on the last one)."""
        newest = f"({cursor}" if cursor else "+inf"
        found = cast(
            list[tuple[str, float]],
            self._redis.zrevrangebyscore(index_key(tenant), newest, "-inf", 0, limit + 1, withscores=True),
        )
        keys = [record_key(tenant, digest) for digest, _ in found[:limit]]
        texts = cast(list[str | None], self._redis.mget(keys)) if keys else []
        sets = [MeasuredScores.model_validate_json(text) for text in texts if text]
        return sets, str(int(found[limit - 1][1])) if len(found) > limit else None

    def expires_at(self, tenant: str, digest: str) -> datetime:
        """The time when the set will be deleted. Raises NotFound."""
        moment = self._redis.zscore(EXPIRIES, expiry_member("scores", tenant, digest))
        if moment is None:
            raise NotFound(f"there are no scores {digest!r}")
        return datetime.fromtimestamp(moment / 1000, UTC)

    def delete(self, tenant: str, digest: str) -> None:
        """Delete a set: its files first, then its record. A job that needs it measures again. Raises NotFound."""
        self.get(tenant, digest)
        self._storage.delete_prefix(score_prefix(tenant, digest))
        self._stored.record(tenant, _item(digest), 0)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(record_key(tenant, digest))
            pipe.zrem(index_key(tenant), digest)
            pipe.zrem(EXPIRIES, expiry_member("scores", tenant, digest))
            pipe.execute()


def index_key(tenant: str) -> str:
    """The Redis key of the sorted set of a tenant's digests."""
    return f"slim:{tenant}:scores"


def record_key(tenant: str, digest: str) -> str:
    """The Redis key of the record of a set."""
    return f"slim:{tenant}:scores:{digest}"


def fingerprint_key(tenant: str, fingerprint: str) -> str:
    """The Redis key of the digests that serve a fingerprint."""
    return f"slim:{tenant}:fingerprint:{fingerprint}"


def _item(digest: str) -> str:
    """The name of a set among the tenant's stored bytes."""
    return f"scores/{digest}"


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
