"""A client of the API, with one method for each operation that the command line needs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.contract.answers.catalog import Plan, Problem
from service.contract.answers.comparison import Comparison
from service.contract.answers.job import Job, JobPage
from service.contract.answers.resources import Artifact, ArtifactPage, Dataset, ScoreSet, ScoreSetPage
from service.contract.errors import TaskslimError
from service.storage.object_store import digest_file

POLL_SECONDS = 0.5
REQUEST_SECONDS = 60.0
MAX_NAME = 256  # characters of the name of a data set
UPLOAD_SECONDS = 600.0  # until the server has read a data set
OUTAGE_SECONDS = 60.0  # without an answer, after which `watch` gives up
CHUNK_BYTES = 2**20
START = "start it with `taskslim serve`, or name a server with --url or SLIM_URL"
KEY = "set SLIM_API_KEY to a key of this server, which `taskslim keys create` makes"

Answer = TypeVar("Answer", bound=BaseModel)


class ApiFailed(TaskslimError):
    """The server refused a request, or its answer is invalid.

    `problem_code` is the code of its problem document. After a refusal nothing has changed on the server; otherwise it
    may have done what was asked.
    """

    problem_code: str | None = None
    is_refusal: bool = False


class ApiUnavailable(ApiFailed):
    """The server does not answer, or answers 503: the request may succeed later."""


class Api:
    """A client of the server at `url`. Every method raises ApiFailed."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, request: Any) -> Job:
        """Submit a job request, which the server validates."""
        return _parse(Job, self._send("POST", "/jobs", json=request))

    def plan(self, request: Any) -> Plan:
        """The plan of a job request, which the server checks as it does when the job is submitted."""
        return _parse(Plan, self._send("POST", "/plans", json=request))

    def upload(self, path: Path, media_type: str, target_column: str | None = None) -> Dataset:
        """Upload a file of rows as a data set with its name. Raises OSError if the file cannot be read."""
        named = {"name": path.name[-MAX_NAME:], "target": target_column}
        params = {name: value for name, value in named.items() if value is not None}
        with path.open("rb") as file:
            timeout = httpx.Timeout(REQUEST_SECONDS, read=UPLOAD_SECONDS)
            headers = {"Content-Type": media_type}
            return _parse(
                Dataset,
                self._send("POST", "/datasets", params=params, headers=headers, content=file, timeout=timeout),
            )

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set."""
        self._send("DELETE", f"/datasets/{dataset_id}")

    def job(self, job_id: str) -> Job:
        """The present state of a job."""
        return _parse(Job, self._send("GET", f"/jobs/{job_id}"))

    def jobs(self, limit: int, status: str | None, tag: str | None) -> list[Job]:
        """Jobs, newest first."""
        filters = {"limit": limit, "status": status, "tag": tag}
        params = {name: value for name, value in filters.items() if value is not None}
        return _parse(JobPage, self._send("GET", "/jobs", params=params)).data

    def compare(self, job_ids: Sequence[str]) -> Comparison:
        """The models of jobs of one model and task beside each other."""
        return _parse(Comparison, self._send("GET", "/compare", params={"jobs": ",".join(job_ids)}))

    def cancel(self, job_id: str) -> Job:
        """Request the cancellation of a job. Returns its state."""
        return _parse(Job, self._send("POST", f"/jobs/{job_id}/cancel"))

    def watch(self, job: Job) -> Iterator[Job]:
        """The states of a job until it ends. Raises ApiUnavailable if the server is unavailable for a minute."""
        answered = time.monotonic()
        while not job.status.is_terminal:
            time.sleep(POLL_SECONDS)
            try:
                job = self.job(job.id)
            except ApiUnavailable:
                if time.monotonic() - answered > OUTAGE_SECONDS:
                    raise
                continue
            answered = time.monotonic()
            yield job

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files of a job that succeeded."""
        return _parse(ArtifactPage, self._send("GET", f"/jobs/{job_id}/artifacts")).data

    def download(self, job_id: str, artifact: Artifact, directory: Path) -> Path:
        """Write an artifact under `directory` and check its SHA-256. An interrupted download is continued."""
        target = directory / artifact.name
        if not target.resolve().is_relative_to(directory.resolve()):
            raise ApiFailed(f"the server sent an artifact name that leaves the directory: {artifact.name}")
        self._download(f"/jobs/{job_id}/artifacts/{artifact.name}", target, artifact.size, artifact.sha256)
        return target

    def scores(self, limit: int) -> list[ScoreSet]:
        """Score sets, newest first."""
        return _parse(ScoreSetPage, self._send("GET", "/scores", params={"limit": limit})).data

    def download_scores(self, digest: str, target: Path) -> None:
        """Write a score set to a safetensors file, as `download` does."""
        found = _parse(ScoreSet, self._send("GET", f"/scores/{digest}"))
        self._download(f"/scores/{digest}/safetensors", target, found.size, found.sha256)

    def delete_scores(self, digest: str) -> None:
        """Delete a score set."""
        self._send("DELETE", f"/scores/{digest}")

    def _download(self, path: str, target: Path, size: int, sha256: str) -> None:
        if target.exists() and digest_file(target) == sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        self._fetch(path, partial, size)
        if digest_file(partial) != sha256:
            partial.unlink()
            raise ApiFailed(f"the SHA-256 of {target.name} differs from the server's: download it again")
        partial.replace(target)

    def _fetch(self, path: str, partial: Path, size: int) -> None:
        done = partial.stat().st_size if partial.exists() else 0
        if done >= size > 0 or (done == size and partial.exists()):
            return
        headers = {"Range": f"bytes={done}-"} if done else {}
        try:
            with self._http.stream("GET", path, headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                    raise _failure(answer)
                with partial.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
                    for chunk in answer.iter_bytes(CHUNK_BYTES):
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error

    def _send(self, method: str, path: str, **options: Any) -> bytes:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if answer.is_error:
            raise _failure(answer)
        return answer.content


def _unreachable(error: httpx.HTTPError) -> ApiUnavailable:
    reason = str(error) or type(error).__name__
    return ApiUnavailable(f"no answer from {error.request.url} ({reason}): {START}")


def _parse(model: type[Answer], content: bytes) -> Answer:
    """The answer as a model of the contract. Raises ApiFailed where it has another form."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors()[:3])
        message = f"the server's answer is no {model.__name__} of this version: {fields or 'nothing'} differs"
        raise ApiFailed(f"{message}; install the version of the server") from error


def _failure(answer: httpx.Response) -> ApiFailed:
    """The error of a refused request, with a line for each field to change."""
    kind = ApiUnavailable if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else ApiFailed
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return kind(f"the server answered {answer.status_code}: {' '.join(answer.text.split())[:500]}")
    lines = [f"{entry.param}: {entry.message} ({problem.code})" for entry in problem.errors or ()]
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        lines = [f"{problem.detail} ({problem.code}): {KEY}"]
    failure = kind("\n".join(lines) or f"{problem.detail} ({problem.code})")
    failure.problem_code, failure.is_refusal = problem.code, answer.is_client_error
    return failure
