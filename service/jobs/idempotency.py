"""`Idempotency-Key`: a request that is sent again creates no second job.

The first request with a key claims the key together with a job id. A repeated request gets the response of the first;
while the first is in progress, the client is told to repeat it later. Where the first never ends because its process
died, a repeated request takes over after `CLAIM_SECONDS` with the same job id, so that a job which the first may have
created is found. Redis: `slim:{tenant}:idempotency:{sha256 of the key}`, kept for a day. Source: IETF draft "The
Idempotency-Key HTTP Header Field", revision 6.
"""

import hashlib
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from redis import Redis

from service.contract.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidRequest
from service.infrastructure.counters import Counters
from service.infrastructure.redis_keys import IDEMPOTENCY_SECONDS
from service.infrastructure.redis_scripts import load_script

CLAIM_SECONDS = 60
# The draft wants a quoted string; clients of older services send the bare value.
HEADER = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x5b\x5d-\x7e]{1,255})')


class StoredResponse(BaseModel):
    """The response of the first request with a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Claim:
    """The right to create a job under this id. `redis_key` is None for a request without an Idempotency-Key."""

    redis_key: str | None
    job_id: str


def parse_key(header: str) -> str:
    """The key in the value of the header. Raises InvalidRequest where there is none."""
    match = HEADER.fullmatch(header.strip())
    if match is None:
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters, preferably in double quotes")
    return match[1] or match[2]


def fingerprint_of(request: BaseModel) -> str:
    """A digest of the whole request with its defaults: equal for equal requests."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


class Idempotency:
    """The idempotency keys of the last day."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counters = Counters(redis)
        self._begin = load_script(redis, "service.jobs", "claim_idempotency_key")

    def begin(self, tenant: str, key: str, fingerprint: str, job_id: str) -> Claim | StoredResponse:
        """Claim the key for a request that would create `job_id`, or return the response of the first request.

        Raises IdempotencyKeyReused where the key was sent with another request, IdempotencyKeyInUse while the first
        request with it is in progress.
        """
        redis_key = redis_key_of(tenant, key)
        outcome, value = self._begin(
            keys=[redis_key], args=[fingerprint, job_id, CLAIM_SECONDS * 1000, IDEMPOTENCY_SECONDS * 1000]
        )
        if outcome == "claimed":
            return Claim(redis_key, value)
        if outcome == "answered":
            self._counters.count("slim_idempotent_replays")
            return StoredResponse.model_validate_json(value)
        if outcome == "reused":
            raise IdempotencyKeyReused("this Idempotency-Key was sent before with another request; send a new key")
        raise IdempotencyKeyInUse(
            "the first request with this Idempotency-Key is still in progress; repeat it later",
            retry_after_seconds=int(value) // 1000 + 1,
        )

    def finish(self, claim: Claim, response: StoredResponse) -> None:
        """Keep the response for repeated requests."""
        if claim.redis_key is not None:
            self._redis.hset(claim.redis_key, "answer", response.model_dump_json())

    def reopen(self, claim: Claim) -> None:
        """Let a repeated request take over at once with the same job id: the outcome of this one is unknown."""
        if claim.redis_key is not None:
            self._redis.hset(claim.redis_key, "until", 0)

    def release(self, claim: Claim) -> None:
        """Forget the key: the request was refused and has created nothing."""
        if claim.redis_key is not None:
            self._redis.delete(claim.redis_key)


def redis_key_of(tenant: str, key: str) -> str:
    """The key in Redis of an idempotency key."""
    return f"slim:{tenant}:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"
