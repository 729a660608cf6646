"""`Idempotency-Key`: a request that is sent again makes nothing twice.

The first request with a key claims it and a job id with it. Whoever repeats the request gets the first answer; while
the first is still in work they are told to come back. Where the first never ended (its process died), a repeat takes
over with the same job id after `IN_WORK_SECONDS`, so what the first may have created is found and not doubled.
Redis: `slim:{tenant}:idempotency:{sha256 of the key}`, kept for a day. After the IETF draft "The Idempotency-Key HTTP
Header Field" (revision 6).
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

IN_WORK_SECONDS = 60
# The draft asks for a quoted string; clients made for older services send the bare value.
HEADER = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x5b\x5d-\x7e]{1,255})')


class Answer(BaseModel):
    """What the first request was answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Claim:
    """The right to do what the request asks for, under this job id; `slot` is null for a request without a key."""

    slot: str | None
    job_id: str


def parse_key(header: str) -> str:
    """The key in the header's value; `InvalidRequest` where it is not one."""
    match = HEADER.fullmatch(header.strip())
    if match is None:
        raise InvalidRequest("Idempotency-Key is a string of 1 to 255 visible ASCII characters, best in double quotes")
    return match[1] or match[2]


def fingerprint_of(request: BaseModel) -> str:
    """What makes two requests the same one: everything in them, defaults filled in."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


class Idempotency:
    """The keys that were sent in the last day."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counters = Counters(redis)
        self._begin = load_script(redis, "service.jobs", "claim_idempotency_key")

    def begin(self, tenant: str, key: str, fingerprint: str, job_id: str) -> Claim | Answer:
        """Claim the key for a request that would make `job_id`, or learn how it was answered before.

        Raises IdempotencyKeyReused when the key came with another request, IdempotencyKeyInUse while the first
        request with it is in work.
        """
        slot = slot_of(tenant, key)
        outcome, value = self._begin(
            keys=[slot], args=[fingerprint, job_id, IN_WORK_SECONDS * 1000, IDEMPOTENCY_SECONDS * 1000]
        )
        if outcome == "claimed":
            return Claim(slot, value)
        if outcome == "answered":
            self._counters.count("slim_idempotent_replays")
            return Answer.model_validate_json(value)
        if outcome == "reused":
            raise IdempotencyKeyReused("this Idempotency-Key came before with another request; use a new one")
        raise IdempotencyKeyInUse(
            "the first request with this Idempotency-Key is still in work; repeat it later",
            retry_after_seconds=int(value) // 1000 + 1,
        )

    def finish(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer for those who repeat the request."""
        if claim.slot is not None:
            self._redis.hset(claim.slot, "answer", answer.model_dump_json())

    def reopen(self, claim: Claim) -> None:
        """Let a repeat take over at once, with the same job id: nobody knows whether the request was done."""
        if claim.slot is not None:
            self._redis.hset(claim.slot, "until", 0)

    def release(self, claim: Claim) -> None:
        """Forget the key: the request was refused and has made nothing."""
        if claim.slot is not None:
            self._redis.delete(claim.slot)


def slot_of(tenant: str, key: str) -> str:
    return f"slim:{tenant}:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"
