"""The option `--url` of the commands that use a server, and the client that they use."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import httpx
import typer

from service.cli.client import Api
from service.settings import Settings

Url = Annotated[str, typer.Option(envvar="SLIM_URL", help="URL of the server.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@contextmanager
def server_at(url: str) -> Iterator[Api]:
    """A client of the server at `url`, with the key of SLIM_API_KEY if it is set. Raises BadParameter."""
    if not _is_http(url):
        raise typer.BadParameter(f"{url!r} is not a URL such as {DEFAULT_URL}", param_hint="'--url'")
    key = Settings().api_key
    with closing(Api(url, key.get_secret_value() if key else None)) as server:
        yield server


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and parsed.host != ""
