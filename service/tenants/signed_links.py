"""Links that work without an API key until they expire: what an object store calls a signed URL, for a local store.

The signature covers tenant, path and time of expiry; the key is the deployment's, in Redis at `slim:link-key`.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode

from redis import Redis

from service.contract.errors import Forbidden

LINK_KEY = "slim:link-key"
LINK_SECONDS = 3600
MAX_TIME = 2**53


@dataclass(frozen=True)
class SignedLink:
    """The query of a signed link."""

    tenant: str
    expires: int  # Unix time, seconds
    signature: str

    @property
    def query(self) -> str:
        return urlencode({"tenant": self.tenant, "expires": self.expires, "signature": self.signature})


class SignedLinks:
    """Makes and checks signed links."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._key: bytes | None = None

    def issue(self, tenant: str, path: str, *, seconds: int = LINK_SECONDS) -> SignedLink:
        """A ticket to GET `path` of `tenant` for so long."""
        expires = int(time.time()) + seconds
        return SignedLink(tenant, expires, self._sign(tenant, path, expires))

    def check(self, ticket: SignedLink, path: str) -> None:
        """Raise `Forbidden` unless we issued the ticket for this path and its time has not run out."""
        right = self._sign(ticket.tenant, path, ticket.expires)
        if not hmac.compare_digest(right.encode(), ticket.signature.encode()):
            raise Forbidden("the link's signature is not valid")
        if not time.time() < ticket.expires < MAX_TIME:
            raise Forbidden("the link has expired; list the artifacts again for a new one")

    def _sign(self, tenant: str, path: str, expires: int) -> str:
        # Lengths first, so that no other split of the same characters has the same signature.
        message = f"{len(tenant)}:{tenant}{len(path)}:{path}{expires}"
        return hmac.digest(self._link_key(), message.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()

    def _link_key(self) -> bytes:
        if self._key is None:
            self._redis.set(LINK_KEY, secrets.token_hex(32), nx=True)
            self._key = bytes.fromhex(cast(str, self._redis.get(LINK_KEY)))
        return self._key
