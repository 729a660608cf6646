"""Checks the outcome of every job, from the API, the job records and the object store."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.parts.chaos.client import Client
from benchmarks.parts.chaos.faults import Fault
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.storage.keys import attempt_prefix, job_prefix, manifest_key
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage

TARGET = "target_unreachable"
TAG = "number"


@dataclass(frozen=True)
class Audit:
    """The faulty jobs by kind of fault: number of the request -> description."""

    lost: dict[int, str]
    stuck: dict[int, str]
    doubled: dict[int, str]


def audit(
    client: Client, jobs: Mapping[str, dict[str, Any]], storage: Storage, job_store: JobStore, unreachable: Set[int]
) -> Audit:
    """Check every accepted job; requests in `unreachable` have a target that no model meets."""
    lost, stuck, doubled = {}, {}, {}
    made = Counter(int(job["tags"][TAG]) for job in jobs.values())
    for number, job_id in client.accepted.items():
        job = jobs.get(job_id)
        if job is None:
            lost[number] = "accepted, but unknown now"
        elif job["finished_at"] is None:
            stuck[number] = f"{job['status']} in {job['stage']}"
        elif wrong := _wrong_end(job, number in unreachable):
            lost[number] = wrong
        elif wrong := _doubled(job, storage, job_store):
            doubled[number] = wrong
        if made[number] > 1:
            doubled[number] = f"{made[number]} jobs for one idempotency key"
    return Audit(lost, stuck, doubled)


def _wrong_end(job: dict[str, Any], unreachable: bool) -> str | None:
    if unreachable:
        right = job["status"] == "failed" and job["error"]["code"] == TARGET
    else:
        right = job["status"] == "succeeded"
    return None if right else f"{job['status']}: {job['error']}"


def _doubled(job: dict[str, Any], storage: Storage, job_store: JobStore) -> str | None:
    """How the job differs from one with one result: more than one final event, or files of several attempts."""
    ends = [event for event in job_store.events(DEFAULT_TENANT, job["id"], limit=2000) if _is_end(event.data)]
    if len(ends) != 1:
        return f"{len(ends)} final events"
    won = [attempt["number"] for attempt in job["attempts"] if attempt["outcome"] == "succeeded"]
    stored = {key for key, _ in storage.list(job_prefix(DEFAULT_TENANT, job["id"]))}
    if job["status"] != "succeeded":
        return f"failed, but stored {sorted(stored)}" if stored or won else None
    manifest = committed_manifest(storage, DEFAULT_TENANT, job["id"])
    if manifest is None:
        return "succeeded without a manifest"
    prefix = attempt_prefix(DEFAULT_TENANT, job["id"], manifest.attempt)
    expected = {prefix + file.name for file in manifest.files} | {manifest_key(DEFAULT_TENANT, job["id"])}
    if stored != expected:
        return f"files that differ from the manifest: {sorted(stored ^ expected)}"
    if len(won) != 1:
        return f"attempts {won} succeeded"
    damaged = [file.name for file in manifest.files if _sha256(storage, prefix + file.name) != file.sha256]
    return f"damaged: {damaged}" if damaged else None


def _is_end(data: Mapping[str, Any]) -> bool:
    return data.get("status") in ("succeeded", "failed", "cancelled")


def _sha256(storage: Storage, key: str) -> str:
    return hashlib.sha256(storage.get_bytes(key)).hexdigest()


@dataclass(frozen=True)
class Recovery:
    """Seconds from the kill of a job's processes until the job was queued again and until its next attempt started.

    `queued` is None where the killed process had not started the attempt, so that the job stayed in the queue. The time
    in `running` includes the wait for other jobs.
    """

    fault: str
    queued: float | None
    running: float | None


def recoveries(faults: Sequence[Fault], jobs: Mapping[str, dict[str, Any]], job_store: JobStore) -> list[Recovery]:
    """The recovery of each attempt that a fault ended."""
    found = []
    for fault in faults:
        for job_id in (rq_job.rpartition("-")[0] for rq_job in fault.rq_jobs):
            if job_id in jobs:
                events = job_store.events(DEFAULT_TENANT, job_id, limit=2000)
                queued = [event.at for event in events if event.data.get("status") == "queued"]
                started = [datetime.fromisoformat(attempt["started_at"]) for attempt in jobs[job_id]["attempts"]]
                again, known = _first(started, fault.ended), _first(queued, fault.ended)
                is_of_this_fault = known is not None and (again is None or known <= again)
                found.append(Recovery(fault.name, known if is_of_this_fault else None, again))
    return found


def _first(moments: Sequence[datetime], since: float) -> float | None:
    """Seconds from `since` to the first moment after it."""
    later = [moment.timestamp() - since for moment in moments if moment.timestamp() > since]
    return round(min(later), 1) if later else None
