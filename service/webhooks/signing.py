"""Webhook signatures after Standard Webhooks 1.0.0, and the secrets of each tenant that make them.

A message is signed as `{id}.{timestamp}.{body}` with HMAC-SHA256. After a rotation the old secret signs beside the new
one for a day, so that a receiver can change over without losing a message.
Redis: `slim:{tenant}:webhook-secret` and `slim:{tenant}:webhook-secret:old`.
"""

import base64
import hashlib
import hmac
import secrets
from typing import cast

from redis import Redis

from service.infrastructure.redis_scripts import load_script

SECRET_BYTES = 32
PREFIX = "whsec_"
OVERLAP_SECONDS = 24 * 3600


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One entry of the webhook-signature header, for a secret that reads `whsec_<base64>`."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def signed_headers(message_id: str, timestamp: int, body: bytes, keys: list[str]) -> dict[str, str]:
    """The headers of a message, signed with every secret that is in force."""
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(key, message_id, timestamp, body) for key in keys),
    }


class WebhookSecrets:
    """The signing secrets of tenants; the first is made when it is first asked for."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._rotate = load_script(redis, "service.webhooks", "rotate_secret")

    def current(self, tenant: str) -> str:
        self._redis.set(secret_key(tenant), new_secret(), nx=True)
        return cast(str, self._redis.get(secret_key(tenant)))

    def in_force(self, tenant: str) -> list[str]:
        """The present secret, and for a day after a rotation the one before."""
        old = cast(str | None, self._redis.get(old_secret_key(tenant)))
        return [self.current(tenant), *([old] if old else [])]

    def rotate(self, tenant: str) -> str:
        """Make a new secret and return it."""
        return cast(
            str,
            self._rotate(keys=[secret_key(tenant), old_secret_key(tenant)], args=[new_secret(), OVERLAP_SECONDS]),
        )


def secret_key(tenant: str) -> str:
    return f"slim:{tenant}:webhook-secret"


def old_secret_key(tenant: str) -> str:
    return f"{secret_key(tenant)}:old"
