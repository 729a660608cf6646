"""The links that a job's representation carries."""

from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request

from service.contract.job import Job, Links
from service.jobs.record import JobRecord
from service.settings import Settings


class JobLinks:
    """Builds URLs as the client sees the API under the base."""

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")

    def job(self, job_id: str) -> str:
        return f"{self._base}/jobs/{job_id}"

    def artifact(self, job_id: str, name: str) -> str:
        return f"{self.job(job_id)}/artifacts/{quote(name)}"

    def dataset(self, dataset_id: str) -> str:
        return f"{self._base}/datasets/{dataset_id}"

    def scores(self, digest: str) -> str:
        """The file of a score set."""
        return f"{self._base}/scores/{digest}/safetensors"

    def of(self, job_id: str) -> Links:
        """Where everything of a job is."""
        job = self.job(job_id)
        return Links(
            self=job,
            events=f"{job}/events",
            deliveries=f"{job}/deliveries",
            artifacts=f"{job}/artifacts",
            report=f"{job}/report",
            cancel=f"{job}/cancel",
        )

    def render(self, record: JobRecord) -> Job:
        """The job as a client sees it."""
        return record.job(self.of(record.id))


def links_of(request: Request) -> JobLinks:
    """Under SLIM_PUBLIC_URL, else under the request's own base."""
    settings: Settings = request.state.settings
    return JobLinks(settings.public_url or base_of(request))


def base_of(request: Request) -> str:
    """What `str(request.base_url)` is, without parsing a URL: scheme, host and the prefix of a proxy."""
    host = request.headers.get("host")
    if host is None:
        return str(request.base_url)
    return f"{request.scope['scheme']}://{host}{request.scope.get('root_path', '')}"


async def _links(request: Request) -> JobLinks:
    return links_of(request)


LinksDep = Annotated[JobLinks, Depends(_links)]
