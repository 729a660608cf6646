"""The commands `taskslim scores`: list, download and delete the score sets of a server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli.options.server import DEFAULT_URL, Url, server_at

Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The digest of a score set, which `list` shows.")]

app = typer.Typer(no_args_is_help=True, help="List, download and delete the score sets that jobs have measured.")
out = Console()


@app.command("list")
def list_scores(
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Number of score sets to show.")] = 20,
    url: Url = DEFAULT_URL,
) -> None:
    """List score sets, newest first, one per line."""
    with server_at(url) as server:
        found = server.scores(limit)
    for entry in found:
        measured = f"{entry.kind} of {entry.family}, {entry.rows} rows, {entry.size} bytes, by job {entry.job_id}"
        line = f"{entry.digest}  {measured}, until {entry.expires_at:%Y-%m-%d}: {entry.model.uri}"
        out.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def download(
    digest: Digest,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The safetensors file to write.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Download a score set as safetensors and check its SHA-256. An interrupted download is continued."""
    with server_at(url) as server:
        server.download_scores(digest, file)
    out.print(str(file), soft_wrap=True, highlight=False)


@app.command()
def delete(digest: Digest, url: Url = DEFAULT_URL) -> None:
    """Delete a score set. The next job that needs it measures it again."""
    with server_at(url) as server:
        server.delete_scores(digest)
    out.print(f"deleted score set {digest}", highlight=False, soft_wrap=True)
