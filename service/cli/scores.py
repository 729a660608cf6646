"""`taskslim scores`: what a server keeps of what jobs have measured."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli.server_option import HERE, Url, server_at

app = typer.Typer(no_args_is_help=True, help="List, download and delete what jobs have measured.")
out = Console()


@app.command("list")
def list_scores(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, url: Url = HERE) -> None:
    """List the newest score sets, one a line: a digest leaves a table no room."""
    with server_at(url) as server:
        found = server.scores(limit)
    for entry in found:
        measured = f"{entry.kind} of {entry.family}, {entry.rows} rows, {entry.size} bytes, by job {entry.job_id}"
        line = f"{entry.digest}  {measured}, until {entry.expires_at:%Y-%m-%d}: {entry.model.uri}"
        out.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def download(digest: str, file: Path, url: Url = HERE) -> None:
    """Download scores as safetensors, going on where an earlier download stopped, and check their SHA-256."""
    with server_at(url) as server:
        server.download_scores(digest, file)
    out.print(str(file), soft_wrap=True, highlight=False)


@app.command()
def delete(digest: str, url: Url = HERE) -> None:
    """Delete scores; the next job that needs them measures them again."""
    with server_at(url) as server:
        server.delete_scores(digest)
    out.print(f"scores {digest} are deleted", highlight=False, soft_wrap=True)
