"""Keys in Redis that more than one module uses."""

import hashlib

from service.contract.job import JobStatus

OPEN = "slim:open"  # tenant/id of each unfinished job -> time of the reconciler's next check, milliseconds
WEBHOOKS = "slim:webhooks"  # tenant/id/event of each message to send -> time at which it is due, milliseconds
EXPIRIES = "slim:expiries"  # kind/tenant/id of each item that expires -> time of expiry, milliseconds
IDEMPOTENCY_SECONDS = 24 * 3600  # how long idempotency keys are kept


def job_key(tenant: str, job_id: str) -> str:
    """The hash of a job's record."""
    return f"slim:{tenant}:job:{job_id}"


def events_key(tenant: str, job_id: str) -> str:
    """The stream of a job's events."""
    return f"slim:{tenant}:events:{job_id}"


def index_key(tenant: str, status: JobStatus | None = None) -> str:
    """The sorted set of a tenant's jobs, or of those of one status; with equal scores, so ordered by id."""
    return f"slim:{tenant}:jobs" + (f":{status}" if status else "")


def slots_key(tenant: str) -> str:
    """The set of a tenant's jobs that have a slot: they are in RQ's queue or running."""
    return f"slim:{tenant}:slots"


def waiting_key(tenant: str) -> str:
    """The sorted set of a tenant's jobs that wait for a slot, ordered by rank and age."""
    return f"slim:{tenant}:waiting"


def open_member(tenant: str, job_id: str) -> str:
    """The name of a job in `OPEN`."""
    return f"{tenant}/{job_id}"


def deliveries_key(tenant: str, job_id: str) -> str:
    """The log of a job's webhook deliveries."""
    return f"slim:{tenant}:deliveries:{job_id}"


def gone_key(tenant: str, url: str) -> str:
    """The mark of a webhook URL that answered 410."""
    return f"slim:{tenant}:webhook-gone:{hashlib.sha256(url.encode()).hexdigest()}"
