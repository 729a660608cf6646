"""Waits for the end of a job (`Prefer: wait`)."""

import asyncio
from asyncio import to_thread
from collections.abc import Mapping
from dataclasses import dataclass

import redis.asyncio
from fastapi import Request

from service.contract.errors import LimitExceeded
from service.jobs.events import follow_events
from service.jobs.store import JobStore
from service.tenants.stream_limit import StreamLimit


@dataclass(frozen=True)
class Waiter:
    """Waits for the end of a job, for `Prefer: wait`."""

    job_store: JobStore
    async_redis: redis.asyncio.Redis
    stream_limit: StreamLimit

    async def wait(self, tenant: str, job_id: str, seconds: int) -> Mapping[str, str] | None:
        """The hash of the job once it has ended, or after `seconds`.

        None without waiting where the tenant has as many waits and streams open as it may: a preference is optional.
        """
        try:
            self.stream_limit.acquire(tenant)
        except LimitExceeded:
            return None
        try:
            await wait_for_end(self.async_redis, tenant, job_id, seconds)
        finally:
            self.stream_limit.release(tenant)
        return await to_thread(self.job_store.get_fields, tenant, job_id)


def waiter_of(request: Request) -> Waiter:
    """A waiter over the clients of the process."""
    return Waiter(request.state.job_store, request.state.async_redis, request.state.stream_limit)


async def wait_for_end(async_redis: redis.asyncio.Redis, tenant: str, job_id: str, seconds: int) -> None:
    """Return when the job has ended, or after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            async for _ in follow_events(async_redis, tenant, job_id):
                pass
    except TimeoutError:
        return
