"""The errors of the client, in one tree.

TaskslimError
├── NoAnswer        the server cannot be reached for longer than the client's patience
├── Refused         the server answered with a problem document; `code` is stable
├── InvalidAnswer   the answer is not one of this API, such as the page of a proxy
├── JobFailed       the job failed or was cancelled; `code` is that of its error
├── WaitedTooLong   the job has not ended within the time; it goes on
└── DamagedFile     a downloaded file has another SHA-256 than the server names
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskslim_client.job import Job


class TaskslimError(Exception):
    """The root of all errors."""


class NoAnswer(TaskslimError):
    """The server cannot be reached: what was asked may or may not have been done."""


class Refused(TaskslimError):
    """An error answer of the server (RFC 9457). With a `status` below 500 nothing has changed on the server.

    `fields` has what is wrong with each field of the request, by its dotted path.
    """

    def __init__(self, status: int, code: str, detail: str, fields: Mapping[str, str]) -> None:
        lines = [f"{name}: {message}" for name, message in fields.items()]
        super().__init__(f"{'; '.join(lines) or detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.fields = dict(fields)


class InvalidAnswer(TaskslimError):
    """The answer is not one of this API."""


class JobFailed(TaskslimError):
    """The job ended without a result. `code` is that of its error, or `cancelled`."""

    def __init__(self, job: "Job") -> None:
        error = job.error
        super().__init__(
            f"job {job.id} failed: {error.message} ({error.code})" if error else f"job {job.id} {job.status}"
        )
        self.job = job
        self.code = error.code if error else job.status
        self.param = error.param if error else None


class WaitedTooLong(TaskslimError, TimeoutError):
    """The job has not ended within the time. It goes on, and can be waited for again."""


class DamagedFile(TaskslimError):
    """A downloaded file has another SHA-256 than the server names; it was deleted."""
