"""The form of job ids, and what follows from it: an id contains its time."""

import re
from datetime import datetime

from ulid import ULID

from service.contract.errors import InvalidRequest


def check_job_id(cursor: str) -> str:
    """A cursor is the id of the last job of a page; `InvalidRequest` for anything else."""
    try:
        return str(ULID.from_str(cursor))
    except ValueError as error:
        raise InvalidRequest("the cursor is not one that this API gave", param="cursor") from error


def first_id_at(moment: datetime) -> str:
    """The smallest id of a job made at that time; ids begin with their time."""
    milliseconds = min(max(0, int(moment.timestamp() * 1000)), 2**48 - 1)
    return str(ULID(milliseconds.to_bytes(6, "big") + bytes(10)))


JOB_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
