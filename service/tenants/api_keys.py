"""API keys: which tenant a request belongs to, and what its caller may do.

The form of a key is `slim_<env>_<id>_<secret>`. The id finds the record, which has the SHA-256 of the secret; that is
enough for 256 random bits. Redis: `slim:keys` (id -> record) and `slim:keys:used` (id -> time of last use).
Once a key has existed, every request needs one, even after the last key was revoked. A server that other machines can
reach always wants one, even after its Redis was emptied.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

from service.contract.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from service.contract.ids import DEFAULT_TENANT

RECORDS = "slim:keys"
LAST_USED = "slim:keys:used"
# How long a process remembers a verified key; after that time a revocation holds in every process.
CACHE_SECONDS = 1.0
MAX_CACHED = 1000
KEY = re.compile(r"slim_([a-z0-9]{1,16})_([a-z0-9]{4,32})_([A-Za-z0-9]{32,128})")
TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# Compared with for an unknown id, so that it takes as long as a wrong secret.
NO_DIGEST = hashlib.sha256(b"no such key").hexdigest()


class KeyScope(StrEnum):
    """What a key may do. `admin` includes all others."""

    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    jobs_cancel = "jobs:cancel"
    artifacts_read = "artifacts:read"
    datasets_write = "datasets:write"
    admin = "admin"


class ApiKey(BaseModel):
    """The record of a key. `digest` is the SHA-256 of the secret in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    env: str
    tenant: str
    name: str = ""
    scopes: tuple[KeyScope, ...]
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class Caller:
    """The caller of a request: its tenant, what it may do, and the id of its key (None without a key)."""

    tenant: str
    scopes: frozenset[KeyScope]
    key_id: str | None = None

    def require(self, scope: KeyScope) -> None:
        """Raise Forbidden unless the caller has `scope`."""
        if not self.scopes & {scope, KeyScope.admin}:
            raise Forbidden(f"this key lacks the scope `{scope}`; create one with `--scope {scope}`")


ANONYMOUS = Caller(DEFAULT_TENANT, frozenset(KeyScope))


def digest_of(secret: str) -> str:
    """The SHA-256 of a secret in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def credential(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key in a request's `Authorization: Bearer` or `X-API-Key` header."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else x_api_key


class ApiKeys:
    """The API keys of a deployment.

    With `on_loopback` only this machine reaches the server, which needs no key as long as none has existed.
    """

    def __init__(self, redis: Redis, *, on_loopback: bool = False) -> None:
        self._redis = redis
        self._on_loopback = on_loopback
        self._cached: dict[str, tuple[float, Caller]] = {}

    def create(
        self,
        tenant: str = DEFAULT_TENANT,
        scopes: Iterable[KeyScope] = (KeyScope.admin,),
        *,
        name: str = "",
        env: str = "live",
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Store a new key. Returns its record and its text, which is not stored."""
        text = f"slim_{env}_{secrets.token_hex(6)}_{secrets.token_hex(32)}"
        return self._store(text, tenant, tuple(scopes), name, expires_at), text

    def adopt(self, text: str, tenant: str = DEFAULT_TENANT) -> ApiKey:
        """Store a key that the deployment chose, with every scope. A key that was revoked stays revoked."""
        match = KEY.fullmatch(text)
        known = self._find(match[2]) if match else None
        if match and known and known.digest == digest_of(match[3]):
            return known
        return self._store(text, tenant, (KeyScope.admin,), "from the environment", None)

    def list(self) -> list[ApiKey]:
        """All keys, oldest first, with revoked and expired ones."""
        records = cast(dict[str, str], self._redis.hgetall(RECORDS))
        used = cast(dict[str, str], self._redis.hgetall(LAST_USED))
        keys = [
            ApiKey.model_validate_json(record).model_copy(update={"last_used_at": _time(used.get(key_id))})
            for key_id, record in records.items()
        ]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key. Raises NotFound where there is none of this id."""
        key = self._find(key_id)
        if key is None:
            raise NotFound(f"no API key {key_id}; `taskslim keys list` shows the ids")
        revoked = key.model_copy(update={"revoked_at": key.revoked_at or datetime.now(UTC)})
        self._write(revoked)
        return revoked

    def exist(self) -> bool:
        """Whether a key has ever existed, so that every request needs one."""
        return bool(self._redis.exists(RECORDS))

    def authenticate(self, text: str | None) -> Caller:
        """The caller whose key is `text`. Raises Unauthorized, without a reason, for everything but a valid key."""
        if (cached := self.cached_caller(text)) is not None:
            return cached
        caller = ANONYMOUS if self._on_loopback and not self.exist() else self._verify(text)
        if len(self._cached) >= MAX_CACHED:
            self._cached.clear()
        self._cached[digest_of(text or "")] = (time.monotonic(), caller)
        return caller

    def cached_caller(self, text: str | None) -> Caller | None:
        """The caller whose key is `text`, if it was verified less than CACHE_SECONDS ago; does not ask Redis."""
        verified_at, caller = self._cached.get(digest_of(text or ""), (-CACHE_SECONDS, ANONYMOUS))
        return caller if time.monotonic() - verified_at < CACHE_SECONDS else None

    def _verify(self, text: str | None) -> Caller:
        if text is None:
            raise Unauthorized("send an API key as `Authorization: Bearer slim_...`")
        match = KEY.fullmatch(text)
        key = self._find(match[2]) if match else None
        same = hmac.compare_digest(key.digest if key else NO_DIGEST, digest_of(match[3] if match else text))
        if key is None or not same or not key.is_valid(datetime.now(UTC)):
            raise Unauthorized("the API key is unknown, revoked or expired")
        self._redis.hset(LAST_USED, key.id, datetime.now(UTC).isoformat())
        return Caller(key.tenant, frozenset(key.scopes), key.id)

    def _find(self, key_id: str) -> ApiKey | None:
        record = cast(str | None, self._redis.hget(RECORDS, key_id))
        return ApiKey.model_validate_json(record) if record else None

    def _store(
        self, text: str, tenant: str, scopes: tuple[KeyScope, ...], name: str, expires_at: datetime | None
    ) -> ApiKey:
        match = KEY.fullmatch(text)
        if match is None:
            raise InvalidRequest(
                "an API key has the form slim_<env>_<id>_<secret>: env of 1 to 16 and id of 4 to 32 lower-case letters "
                "and digits, secret of 32 to 128 letters and digits"
            )
        if not TENANT.fullmatch(tenant):
            raise InvalidRequest("the name of a tenant must have at most 63 lower-case letters, digits and hyphens")
        key = ApiKey(
            id=match[2],
            env=match[1],
            tenant=tenant,
            name=name,
            scopes=scopes,
            digest=digest_of(match[3]),
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        self._write(key)
        return key

    def _write(self, key: ApiKey) -> None:
        self._redis.hset(RECORDS, key.id, key.model_dump_json(exclude={"last_used_at"}))


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
