"""Signatures of webhooks by Standard Webhooks 1.0.0, and the secrets of each tenant that make them.

After a rotation the old secret signs beside the new one for a day, so that a receiver can change over without losing a
message. Redis: `slim:{tenant}:webhook-secret` and `slim:{tenant}:webhook-secret:old`.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import cast

from redis import Redis
from standardwebhooks import Webhook

from service.infrastructure.redis_scripts import load_script

SECRET_BYTES = 32
PREFIX = "whsec_"
OVERLAP_SECONDS = 24 * 3600


def new_secret() -> str:
    """A random secret as `whsec_<base64>`."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(message_id: str, sent_at: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """The headers of a message, signed with each of the secrets. `sent_at` is in UTC."""
    signatures = [Webhook(key).sign(message_id, sent_at, body.decode()) for key in keys]
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


class WebhookSecrets:
    """The signing secrets of tenants. A tenant's first secret is made when it is first asked for."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._rotate = load_script(redis, "service.webhooks", "rotate_secret")

    def current(self, tenant: str) -> str:
        """The present secret."""
        self._redis.set(secret_key(tenant), new_secret(), nx=True)
        return cast(str, self._redis.get(secret_key(tenant)))

    def in_force(self, tenant: str) -> list[str]:
        """The present secret and, for a day after a rotation, the one before."""
        old = cast(str | None, self._redis.get(old_secret_key(tenant)))
        return [self.current(tenant), *([old] if old else [])]

    def rotate(self, tenant: str) -> str:
        """Replace the present secret; returns the new one."""
        return cast(
            str,
            self._rotate(keys=[secret_key(tenant), old_secret_key(tenant)], args=[new_secret(), OVERLAP_SECONDS]),
        )


def secret_key(tenant: str) -> str:
    """The key in Redis of a tenant's secret."""
    return f"slim:{tenant}:webhook-secret"


def old_secret_key(tenant: str) -> str:
    """The key in Redis of a tenant's secret before the last rotation."""
    return f"{secret_key(tenant)}:old"
