"""The lease of an attempt: the right of one worker to run it and to write to the job's record.

A lease ends with its attempt, or when the worker has not renewed it for `lease_seconds`. The attempt's number is its
fencing token: numbers only grow, each is leased once, and a write with any other than the present one is refused.
"""

from dataclasses import dataclass

from service.contract.errors import DeadlineExceeded
from service.jobs.record import JobRecord


class LeaseLost(Exception):
    """The attempt is not the present one of its job any more. Its worker must stop and write nothing."""


@dataclass(frozen=True)
class Lease:
    """The lease of one attempt. `job` is the record as it was when the attempt started."""

    job: JobRecord
    attempt: int
    spent_seconds: float  # of the job's deadline, by earlier attempts
    shard: int | None = None  # of the attempt, whose lease all its shards share


def deadline_exceeded(seconds: int, during: str = "") -> DeadlineExceeded:
    """The error of a job that ran longer than its deadline; `during` says what it was doing."""
    message = f"the job ran longer than its deadline of {seconds} seconds{during}: set a higher `deadline_seconds`"
    return DeadlineExceeded(message, param="deadline_seconds")
