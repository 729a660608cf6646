"""Writes the files of a job to a directory, with a progress bar."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from service.cli.client import Api
from service.contract.errors import InvalidRequest


def download_files(server: Api, job_id: str, directory: Path, console: Console) -> int:
    """The number of files, each with its SHA-256 checked. Raises InvalidRequest for a job without files, ApiFailed."""
    artifacts = server.artifacts(job_id)
    if not artifacts:
        raise InvalidRequest(f"job {job_id} has no files: its status is {server.job(job_id).status}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress:
        line = progress.add_task("", total=sum(artifact.size for artifact in artifacts))
        for artifact in artifacts:
            progress.update(line, description=artifact.name)
            server.download(job_id, artifact, directory)
            progress.advance(line, artifact.size)
    return len(artifacts)
