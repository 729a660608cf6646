"""Jobs and plans as the server answers them. Fields that this client does not know are in `document`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskslim_client.errors import InvalidAnswer

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class JobError:
    """Why a job failed. `param` is the field of the request to change, as a dotted path."""

    code: str
    message: str
    param: str | None


@dataclass(frozen=True)
class Job:
    """A job. `fraction` is the share of it that is done; `result` has the measurements of a succeeded job."""

    id: str
    status: str
    stage: str | None
    fraction: float
    eta_seconds: float | None
    result: Mapping[str, Any] | None
    error: JobError | None
    document: Mapping[str, Any] = field(repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.status in ENDED

    @property
    def kept(self) -> float:
        """The share of the dense model's metric that the slim model has. Raises ValueError for a job without it."""
        if self.result is None:
            raise ValueError(f"job {self.id} is {self.status} and has no result")
        dense, slim = (float(self.result["metrics"][model]["value"]["value"]) for model in ("dense", "slim"))
        return slim / dense


@dataclass(frozen=True)
class Plan:
    """What a request leads to. `slim` is the number of parameters; None for a target that has to be measured."""

    dense: int
    slim: int | None
    seconds: float | None
    document: Mapping[str, Any] = field(repr=False)


def job_of(document: Any) -> Job:
    """The job of an answer. Raises InvalidAnswer."""
    try:
        error = document["error"]
        return Job(
            id=document["id"],
            status=document["status"],
            stage=document["stage"],
            fraction=float(document["progress"]["fraction"]),
            eta_seconds=document["progress"].get("eta_seconds"),
            result=document["result"],
            error=error and JobError(error["code"], error["message"], error.get("param")),
            document=document,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidAnswer(f"the server's answer is not a job: {error!r}") from error


def plan_of(document: Any) -> Plan:
    """The plan of an answer. Raises InvalidAnswer."""
    try:
        time = document.get("time")
        parameters = document["parameters"]
        return Plan(parameters["dense"], parameters.get("slim"), time and float(time["seconds"]), document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidAnswer(f"the server's answer is not a plan: {error!r}") from error
