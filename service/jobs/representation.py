"""The JSON of a job as clients see it: the one place that writes it, for every route."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from pydantic_core import from_json, to_json

from service.contract.answers.job import Links, Shards
from service.jobs.record import ATTEMPT, EPOCH, TIMES, JobRecord, decode_shards, encode_whole, unreadable


def job_json(job: Mapping[str, str] | JobRecord, links: Links) -> str:
    """The job as JSON text, from its record or from the hash that holds the record in Redis.

    Clients poll jobs, so nothing is validated again: the nested values of the hash are JSON that was written after
    validation, and are copied. A field that a later version added to them is absent. Raises UnreadableRecord.
    """
    fields = encode_whole(job) if isinstance(job, JobRecord) else job
    try:
        nested = {"request": fields["request"], "progress": fields["progress"]}
        nested |= {name: fields.get(name) or "null" for name in ("result", "error")}
        read = {name: from_json(text) for name, text in nested.items()}
        shards = shard_counts(read["request"], fields)
        if shards is not None:
            nested["progress"] = to_json(_with_shards(read["progress"], shards.of, fields)).decode()
        flat = {
            "id": fields["id"],
            "object": "job",
            "status": fields["status"],
            "stage": fields.get("stage") or None,
            "attempt": int(fields["attempt"]),
            "attempts": _attempts(fields),
            **{name: _moment(fields.get(name)) for name in TIMES},
            "tags": read["request"]["tags"],
            "shards": shards,
            "links": links,
        }
        text = to_json(flat).decode()
    except (ValueError, TypeError, KeyError) as error:
        raise unreadable(fields) from error
    return text[:-1] + "".join([f',"{name}":{value}' for name, value in nested.items()]) + "}"


def shard_counts(request: Mapping[str, Any], fields: Mapping[str, str]) -> Shards | None:
    """How many shards of a job are done; None for a job that one worker runs."""
    of = request["method"].get("shards", 1)
    return None if of == 1 else Shards(done=sum(each["done"] for each in decode_shards(fields).values()), of=of)


def _with_shards(progress: dict[str, Any], of: int, fields: Mapping[str, str]) -> dict[str, Any]:
    """The progress of a job with that of its shards, which count as much as each other."""
    fraction = sum(each["fraction"] for each in decode_shards(fields).values()) / of
    return progress | {"fraction": max(progress["fraction"], fraction)}


def page_json(jobs: list[str], next_cursor: str | None) -> str:
    """A page of jobs as JSON text, from the JSON text of each."""
    rest = to_json({"next_cursor": next_cursor, "has_more": next_cursor is not None}).decode()
    return f'{{"data":[{",".join(jobs)}],{rest[1:]}'


def _attempts(fields: Mapping[str, str]) -> list[dict[str, Any]]:
    found = [from_json(value) for name, value in fields.items() if name.startswith(ATTEMPT)]
    return [
        {
            "number": attempt["number"],
            "started_at": _moment(attempt["started_at"]),
            "finished_at": _moment(attempt.get("finished_at")),
            "outcome": attempt.get("outcome"),
        }
        for attempt in sorted(found, key=itemgetter("number"))
    ]


def _moment(milliseconds: str | int | None) -> datetime | None:
    """The time that Redis stores in milliseconds; pydantic writes it as RFC 3339 does."""
    return EPOCH + timedelta(milliseconds=int(milliseconds)) if milliseconds else None
