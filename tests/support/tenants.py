"""A tenant that has one of each resource, with known ids."""

import json
from typing import Any

from redis import Redis

from service.api.openapi.examples import EXAMPLE_JOB_ID
from service.api.openapi.response_examples import DATASET, DATASET_ID, DELIVERY, REPORT
from service.contract.answers.resources import Dataset, Delivery
from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.redis_keys import deliveries_key
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.storage.datasets import index_key, record_key
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support.contract_examples import REQUEST
from tests.support.finished_jobs import FILES, finish
from tests.support.score_sets import digest_of, measured, safetensors

MINE, THEIRS = digest_of("mine"), digest_of("theirs")
# Name of a parameter -> values that exist.
KNOWN = {
    "job_id": [EXAMPLE_JOB_ID],
    "jobs": [EXAMPLE_JOB_ID],
    "name": [*FILES],
    "dataset_id": [DATASET_ID],
    "digest": [MINE, THEIRS],
    "scores": [f"{MINE},{THEIRS}"],
}
COLUMNS = ["text", "label"]


def stock(redis: Redis, storage: Storage) -> None:
    """Create one of each resource on an empty server."""
    job_store = JobStore(redis)
    job = job_store.accept(new_record(REQUEST, job_id=EXAMPLE_JOB_ID))
    finish(job, job_store, storage, FILES | {"report.json": json.dumps(REPORT).encode()})
    redis.rpush(deliveries_key(DEFAULT_TENANT, EXAMPLE_JOB_ID), Delivery.model_validate(DELIVERY).model_dump_json())
    redis.set(record_key(DEFAULT_TENANT, DATASET_ID), Dataset.model_validate(DATASET).model_dump_json())
    redis.zadd(index_key(DEFAULT_TENANT), {DATASET_ID: 0})
    sets, content = ScoreSets(redis, storage), safetensors()
    for digest in (MINE, THEIRS):
        sets.add(DEFAULT_TENANT, measured(content, digest), content, days=1)


def knowing(document: dict[str, Any]) -> dict[str, Any]:
    """The document with enums of ids, of which one exists and one does not, in place of the patterns of ids, and with
    the columns that the uploaded rows have."""
    for methods in document["paths"].values():
        for parameter in (parameter for operation in methods.values() for parameter in operation.get("parameters", [])):
            if parameter["in"] == "path" or parameter["name"] in ("jobs", "scores"):
                known = KNOWN[parameter["name"]]
                parameter["schema"] = {"type": "string", "enum": [*known, known[0][::-1]]}
            elif parameter["name"] == "target":
                parameter["schema"] = {"type": "string", "enum": COLUMNS}
    return document
