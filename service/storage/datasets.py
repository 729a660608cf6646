"""Uploaded data sets, stored as JSON Lines.

Redis: `slim:{tenant}:datasets` (ids, ordered by their ULID) and `slim:{tenant}:dataset:{id}`.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from redis import Redis

from service.contract.answers.resources import Dataset, DatasetPage
from service.contract.errors import NotFound, TaskslimError
from service.contract.ids import check_cursor, new_id
from service.infrastructure.redis_keys import EXPIRIES, expiry_member
from service.storage.keys import dataset_key, dataset_prefix, dataset_uri
from service.storage.object_store import Storage
from service.storage.row_formats import Content
from service.tenants.storage_quota import StoredBytes


class Uploads:
    """The uploaded data sets of all tenants."""

    def __init__(self, redis: Redis, storage: Storage, stored: StoredBytes) -> None:
        self._redis = redis
        self._storage = storage
        self._stored = stored

    def add(
        self, lines: Path, content: Content, tenant: str, *, name: str | None, days: float, quota: int | None = None
    ) -> Dataset:
        """Store a file that `convert` wrote. Raises LimitExceeded if the tenant would store more than `quota` bytes.

        The expiry is written first: it lets the retention sweep delete what an interrupted upload leaves behind.
        """
        now = datetime.now(UTC)
        dataset_id = new_id()
        dataset = Dataset(
            id=dataset_id,
            uri=dataset_uri(dataset_id),
            name=name,
            rows=content.rows,
            columns=content.columns,
            size=content.size,
            sha256=content.sha256,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        self._stored.reserve_bytes(tenant, _item(dataset_id), content.size, quota)
        self._redis.zadd(
            EXPIRIES, {expiry_member("dataset", tenant, dataset_id): int(dataset.expires_at.timestamp() * 1000)}
        )
        try:
            self._storage.put_file(lines, dataset_key(tenant, dataset_id))
        except TaskslimError:
            self._stored.record(tenant, _item(dataset_id), 0)
            raise
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(record_key(tenant, dataset_id), dataset.model_dump_json())
            pipe.zadd(index_key(tenant), {dataset_id: 0})
            pipe.execute()
        return dataset

    def get(self, tenant: str, dataset_id: str) -> Dataset:
        """The record of a data set. Raises NotFound, also for a data set of another tenant."""
        text = cast(str | None, self._redis.get(record_key(tenant, dataset_id)))
        if text is None:
            raise NotFound(f"there is no data set {dataset_id!r}")
        return Dataset.model_validate_json(text)

    def page(self, tenant: str, *, cursor: str | None, limit: int) -> DatasetPage:
        """A page of the tenant's data sets, the newest first."""
        newest = f"({check_cursor(cursor)}" if cursor else "+"
        ids = cast(list[str], self._redis.zrevrangebylex(index_key(tenant), newest, "-", start=0, num=limit + 1))
        texts = self._redis.mget([record_key(tenant, dataset_id) for dataset_id in ids[:limit]]) if ids else []
        data = [Dataset.model_validate_json(text) for text in cast(list[str | None], texts) if text]
        more = len(ids) > limit
        return DatasetPage(data=data, next_cursor=ids[limit - 1] if more else None, has_more=more)

    def delete(self, tenant: str, dataset_id: str) -> None:
        """Delete a data set. A job that has not read its rows yet will fail. Raises NotFound."""
        self.get(tenant, dataset_id)
        self.forget(tenant, dataset_id)

    def forget(self, tenant: str, dataset_id: str) -> None:
        """Delete what is left of a data set: its files first, then its record."""
        self._storage.delete_prefix(dataset_prefix(tenant, dataset_id))
        self._stored.record(tenant, _item(dataset_id), 0)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(record_key(tenant, dataset_id))
            pipe.zrem(index_key(tenant), dataset_id)
            pipe.zrem(EXPIRIES, expiry_member("dataset", tenant, dataset_id))
            pipe.execute()


def index_key(tenant: str) -> str:
    """The Redis key of the sorted set of a tenant's data set ids."""
    return f"slim:{tenant}:datasets"


def record_key(tenant: str, dataset_id: str) -> str:
    """The Redis key of the record of a data set."""
    return f"slim:{tenant}:dataset:{dataset_id}"


def _item(dataset_id: str) -> str:
    """The name of a data set among the tenant's stored bytes."""
    return f"dataset/{dataset_id}"
