"""The client: requests, plans, jobs and files."""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from taskslim_client import files
from taskslim_client.errors import JobFailed, WaitedTooLong
from taskslim_client.job import Job, Plan, job_of, plan_of
from taskslim_client.progress import ProgressLines
from taskslim_client.transport import PAUSE_SECONDS, REQUEST_SECONDS, Transport

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 20  # for which the server holds back the answer about a job that has not ended
UPLOAD_SECONDS = 600.0  # until the server has read a data set
MAX_NAME = 256  # characters of the name of a data set
MEDIA_TYPES = {
    ".jsonl": "application/jsonl",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}

Rows = str | os.PathLike[str] | Sequence[Mapping[str, Any]]  # a URI, a file of this machine, or the rows themselves
Fields = Mapping[str, Any]


class Client:
    """A client of the server at `url`. Every method raises a TaskslimError for what the server or a job does.

    Without arguments it takes `SLIM_URL` and `SLIM_API_KEY` of the environment. A request that is safe to repeat is
    repeated for `patience` seconds while the server is away.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, patience: float = 60.0) -> None:
        environment = os.environ
        url = url or environment.get("SLIM_URL") or DEFAULT_URL
        self._transport = Transport(url, key or environment.get("SLIM_API_KEY"), patience)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.http.close()

    # --- requests

    def request(
        self,
        model: str | Fields,
        task: str | Fields,
        rows: Rows,
        *,
        evaluation: Rows | None = None,
        ratio: float | None = None,
        keep: float | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """A request for `plan` and `submit`. Files of rows are uploaded.

        `model` is a URI or the field `model`; `task` the name of a preset or the field `task` without its rows. The
        target is a `ratio` to remove or a share of the metric to `keep`, else the field `target`. `fields` are further
        fields of a request, such as `method`, `output`, `recovery` and `tags`.
        """
        sources = {"calibration": rows} | ({} if evaluation is None else {"evaluation": evaluation})
        wording = {"preset": task} if isinstance(task, str) else dict(task)
        target = {name: value for name, value in (("ratio", ratio), ("keep_metric", keep)) if value is not None}
        return {
            "model": {"uri": model} if isinstance(model, str) else dict(model),
            "task": wording | {name: self._source(each) for name, each in sources.items()},
            **({"target": target} if target else {}),
            **fields,
        }

    def plan(self, request: Fields) -> Plan:
        """The sizes and the time that a request leads to. It is refused where the job would be."""
        return plan_of(self._transport.json("POST", "/plans", json=request))

    def submit(self, request: Fields) -> Job:
        """Start a job. The request is sent with an Idempotency-Key, so that a repetition starts no second job."""
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        return job_of(self._transport.json("POST", "/jobs", json=request, headers=headers))

    def slim(self, model: str | Fields, task: str | Fields, rows: Rows, **options: Any) -> Job:
        """Start a job; the arguments are those of `request`."""
        return self.submit(self.request(model, task, rows, **options))

    def upload(self, path: str | os.PathLike[str]) -> str:
        """Upload a JSON Lines, CSV or Parquet file of rows as a data set. Returns its `dataset://` URI.

        Raises ValueError for a file with another ending, OSError for one that cannot be read.
        """
        file = Path(path)
        if file.suffix not in MEDIA_TYPES:
            raise ValueError(f"{file} is none of {', '.join(MEDIA_TYPES)}: convert it first")
        headers = {"Content-Type": MEDIA_TYPES[file.suffix]}
        timeout = httpx.Timeout(REQUEST_SECONDS, read=UPLOAD_SECONDS)
        options = {"params": {"name": file.name[-MAX_NAME:]}, "headers": headers, "timeout": timeout}
        with file.open("rb") as content:  # which is sent piece by piece, so that no attempt repeats it
            answer = self._transport.json("POST", "/datasets", content=content, repeat=False, **options)
        return str(answer["uri"])

    def _source(self, rows: Rows) -> dict[str, Any]:
        if isinstance(rows, str) and "://" in rows:
            return {"uri": rows}
        if isinstance(rows, str | os.PathLike):
            return {"uri": self.upload(rows)}
        return {"rows": [dict(row) for row in rows]}

    # --- jobs

    def job(self, job: Job | str) -> Job:
        """The present state of a job."""
        return job_of(self._transport.json("GET", f"/jobs/{_id(job)}"))

    def cancel(self, job: Job | str) -> Job:
        """Request the cancellation of a job."""
        return job_of(self._transport.json("POST", f"/jobs/{_id(job)}/cancel"))

    def wait(
        self,
        job: Job | str,
        *,
        progress: bool | Callable[[Job], object] = False,
        timeout: float | None = None,
    ) -> Job:
        """Wait until the job succeeds, for at most `timeout` seconds.

        With `progress` its states are written to standard error, or given to a function. Raises JobFailed for a job
        that fails or is cancelled, and WaitedTooLong.
        """
        show = progress if callable(progress) else ProgressLines().show if progress else lambda job: None
        end = None if timeout is None else time.monotonic() + timeout
        now = self.job(job)
        show(now)
        while not now.has_ended:
            left = POLL_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                raise WaitedTooLong(f"job {now.id} is {now.status} after {timeout} s; it goes on")
            now = self._next_state(now, min(POLL_SECONDS, left), followed=bool(progress))
            show(now)
        if now.status != "succeeded":
            raise JobFailed(now)
        return now

    def _next_state(self, job: Job, seconds: float, *, followed: bool) -> Job:
        """The job a second later where its progress is shown, else when it ends or `seconds` are over."""
        if followed:
            time.sleep(min(PAUSE_SECONDS, seconds))
            return self.job(job)
        started = time.monotonic()
        headers = {"Prefer": f"wait={max(1, round(seconds))}"}
        now = job_of(self._transport.json("GET", f"/jobs/{job.id}", headers=headers))
        if not now.has_ended and time.monotonic() - started < PAUSE_SECONDS:
            time.sleep(min(PAUSE_SECONDS, seconds))  # the server has no free place to wait
        return now

    def compare(self, jobs: Iterable[Job | str]) -> dict[str, Any]:
        """Jobs of one model and task beside each other."""
        found: dict[str, Any] = self._transport.json("GET", "/compare", params={"jobs": ",".join(map(_id, jobs))})
        return found

    def report(self, job: Job | str) -> dict[str, Any]:
        """The report of a succeeded job."""
        found: dict[str, Any] = self._transport.json("GET", f"/jobs/{_id(job)}/report")
        return found

    def download(self, job: Job | str, directory: str | os.PathLike[str], *, under: str = "") -> list[Path]:
        """Write the files of a job whose names start with `under` to a directory, and return their paths.

        A file that is there already is kept, an interrupted one continued. Raises ValueError where there is no file.
        """
        listed = self._transport.json("GET", f"/jobs/{_id(job)}/artifacts")["data"]
        wanted = [file for file in listed if file["name"].startswith(under)]
        if not wanted:
            raise ValueError(f"job {_id(job)} has no files under {under!r}: wait until it has succeeded")
        return [files.download(self._transport.http, _id(job), file, Path(directory)) for file in wanted]


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id
