"""Signed links, which work without an API key until they expire: the signed URLs of a local store.

The signature covers tenant, path and time of expiry. Its key belongs to the deployment (`slim:link-key` in Redis).
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
    """A signed link: the tenant, the time of expiry and the signature of its query."""

    tenant: str
    expires: int  # Unix time, seconds
    signature: str

    @property
    def query(self) -> str:
        """The query of the URL."""
        return urlencode({"tenant": self.tenant, "expires": self.expires, "signature": self.signature})


class SignedLinks:
    """Creates and checks signed links."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._key: bytes | None = None

    def issue(self, tenant: str, path: str, *, seconds: int = LINK_SECONDS) -> SignedLink:
        """A link to GET `path` of `tenant` that is valid for `seconds`."""
        expires = int(time.time()) + seconds
        return SignedLink(tenant, expires, self._sign(tenant, path, expires))

    def check(self, link: SignedLink, path: str) -> None:
        """Raise Forbidden unless the link was issued for this path and has not expired."""
        right = self._sign(link.tenant, path, link.expires)
        if not hmac.compare_digest(right.encode(), link.signature.encode()):
            raise Forbidden("the link's signature is not valid")
        if not time.time() < link.expires < MAX_TIME:
            raise Forbidden("the link has expired; list the artifacts again for a new one")

    def _sign(self, tenant: str, path: str, expires: int) -> str:
        # With lengths, so that no other division of the same characters has the same signature.
        message = f"{len(tenant)}:{tenant}{len(path)}:{path}{expires}"
        return hmac.digest(self._link_key(), message.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()

    def _link_key(self) -> bytes:
        if self._key is None:
            self._redis.set(LINK_KEY, secrets.token_hex(32), nx=True)
            self._key = bytes.fromhex(cast(str, self._redis.get(LINK_KEY)))
        return self._key
