"""Keys in Redis that more than one module uses, the members of their sets, and how long idempotency keys are kept."""

from typing import Literal

from service.contract.answers.job import JobStatus

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


def expiry_member(kind: Literal["job", "dataset", "scores", "rows"], tenant: str, item: str) -> str:
    """The name of an item in `EXPIRIES`; `item` is the id of a job or data set, or the digest of a score set."""
    return f"{kind}/{tenant}/{item}"


def deliveries_key(tenant: str, job_id: str) -> str:
    """The log of a job's webhook deliveries."""
    return f"slim:{tenant}:deliveries:{job_id}"
