"""Ids of jobs, data sets and processes: ULIDs, which begin with the time at which they were made."""

import re
from datetime import datetime

from ulid import ULID

from service.contract.errors import InvalidRequest

ULID_PATTERN = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
JOB_ID = re.compile(ULID_PATTERN)
DEFAULT_TENANT = "default"  # of callers without an API key


def new_id() -> str:
    """A fresh ULID."""
    return str(ULID())


def time_of(ulid: str) -> datetime:
    """When an id was made."""
    return ULID.from_str(ulid).datetime


def check_cursor(cursor: str) -> str:
    """The cursor of a page, which is the id of its last job. Raises InvalidRequest for anything else."""
    try:
        return str(ULID.from_str(cursor))
    except ValueError as error:
        message = "the cursor is invalid: send the `next_cursor` of an earlier page"
        raise InvalidRequest(message, param="cursor") from error


def first_id_at(moment: datetime) -> str:
    """The smallest id that can be made at a time."""
    milliseconds = min(max(0, int(moment.timestamp() * 1000)), 2**48 - 1)
    return str(ULID(milliseconds.to_bytes(6, "big") + bytes(10)))
