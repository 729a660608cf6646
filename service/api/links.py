"""URLs of the API, as its answers contain them."""

from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request

from service.contract.answers.job import Links
from service.settings import Settings


class JobLinks:
    """Builds URLs under the base URL at which the client reaches the API."""

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")

    def job(self, job_id: str) -> str:
        return f"{self._base}/jobs/{job_id}"

    def artifact(self, job_id: str, name: str) -> str:
        return f"{self.job(job_id)}/artifacts/{quote(name)}"

    def dataset(self, dataset_id: str) -> str:
        return f"{self._base}/datasets/{dataset_id}"

    def scores(self, digest: str) -> str:
        """The URL of the file of a score set."""
        return f"{self._base}/scores/{digest}/safetensors"

    def of(self, job_id: str) -> Links:
        """The links of a job."""
        job = self.job(job_id)
        return Links(
            self=job,
            events=f"{job}/events",
            deliveries=f"{job}/deliveries",
            artifacts=f"{job}/artifacts",
            report=f"{job}/report",
            cancel=f"{job}/cancel",
        )


def links_of(request: Request) -> JobLinks:
    """URLs under SLIM_PUBLIC_URL, or under the base URL of the request where that is not set."""
    settings: Settings = request.state.settings
    return JobLinks(settings.public_url or base_of(request))


def base_of(request: Request) -> str:
    """The value of `str(request.base_url)`, made without parsing a URL: scheme, host and the prefix of a proxy."""
    host = request.headers.get("host")
    if host is None:
        return str(request.base_url)
    return f"{request.scope['scheme']}://{host}{request.scope.get('root_path', '')}"


async def _links(request: Request) -> JobLinks:
    return links_of(request)


LinksDep = Annotated[JobLinks, Depends(_links)]
