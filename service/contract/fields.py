"""The contract: what a client sends, what it gets back, and what both sides of the queue agree on.

pydantic only. A name here is the name everywhere: in the API, the code, the Redis keys, the logs and the tests.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

MAX_ROWS = 100_000  # inline in one request
MAX_RATIO = 0.95
EVALUATION_SHARE = 5  # one calibration row in five is set aside where a task names no evaluation rows
MAX_TASKS = 16
MAX_OBSERVED = 16
MAX_EVALUATIONS = 16
OWN_TASK = "own-task"  # the title of one that has neither name nor preset
Uri = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Tag = Annotated[str, Field(max_length=256)]
Tags = Annotated[dict[Annotated[str, Field(max_length=64)], Tag], Field(max_length=16)]
# A row is whatever the template and the label need; other columns of a file are ignored.
Number = Annotated[float, Field(allow_inf_nan=False)]
RowValues = dict[str, str | int | Number | bool | None]


class Schema(BaseModel):
    """Unknown fields are refused: a typing mistake in a request must never be silently dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __deepcopy__(self, memo: object = None) -> Self:
        """Itself: nothing changes it. pydantic would copy each default anew, field by field, for every request."""
        return self


# --- the request ---------------------------------------------------------------------------------------------------


# --- the job -------------------------------------------------------------------------------------------------------


# --- the report ----------------------------------------------------------------------------------------------------


# --- the plan ------------------------------------------------------------------------------------------------------


# --- the catalogue and the problem document --------------------------------------------------------------------------
