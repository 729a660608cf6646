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
    text = key.get_secret_value() if key else ""
    if not (text.isascii() and text.isprintable()):
        raise typer.BadParameter("SLIM_API_KEY has a character that no API key has: set it to a key of the server")
    with closing(Api(url, text or None)) as server:
        yield server


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and parsed.host != ""
