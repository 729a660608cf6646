"""The names of the keys in Redis that more than one module uses."""

import hashlib

from service.contract.job import JobStatus

OPEN = "slim:open"  # tenant/id of every unfinished job -> when the reconciler must look at it, Redis' milliseconds


WEBHOOKS = "slim:webhooks"  # tenant/id/event of every message to send -> when it is due, Redis' milliseconds


EXPIRIES = "slim:expiries"  # kind/tenant/id of what is to be deleted -> when, Redis' milliseconds


def job_key(tenant: str, job_id: str) -> str:
    return f"slim:{tenant}:job:{job_id}"


def events_key(tenant: str, job_id: str) -> str:
    return f"slim:{tenant}:events:{job_id}"


def index_key(tenant: str, status: JobStatus | None = None) -> str:
    """All jobs of a tenant, or those of one status: members with equal scores, hence ordered by their ULID."""
    return f"slim:{tenant}:jobs" + (f":{status}" if status else "")


def slots_key(tenant: str) -> str:
    """Jobs of a tenant that were handed to workers: in the queue or running."""
    return f"slim:{tenant}:slots"


def waiting_key(tenant: str) -> str:
    """Jobs of a tenant that wait until it may run more, scored by rank, hence ordered by rank and age."""
    return f"slim:{tenant}:waiting"


def open_member(tenant: str, job_id: str) -> str:
    return f"{tenant}/{job_id}"


def deliveries_key(tenant: str, job_id: str) -> str:
    return f"slim:{tenant}:deliveries:{job_id}"


def gone_key(tenant: str, url: str) -> str:
    return f"slim:{tenant}:webhook-gone:{hashlib.sha256(url.encode()).hexdigest()}"


IDEMPOTENCY_SECONDS = 24 * 3600
