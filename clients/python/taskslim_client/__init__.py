"""A client of the Taskslim service for scripts and pipelines."""

from taskslim_client.client import Client
from taskslim_client.errors import (
    DamagedFile,
    InvalidAnswer,
    JobFailed,
    NoAnswer,
    Refused,
    TaskslimError,
    WaitedTooLong,
)
from taskslim_client.job import Job, JobError, Plan

__all__ = [
    "Client",
    "DamagedFile",
    "InvalidAnswer",
    "Job",
    "JobError",
    "JobFailed",
    "NoAnswer",
    "Plan",
    "Refused",
    "TaskslimError",
    "WaitedTooLong",
]
