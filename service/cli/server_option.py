"""The option `--url` of the commands that use a server, and the client that they use."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from service.cli.client import Api
from service.settings import Settings

Url = Annotated[str, typer.Option(envvar="SLIM_URL", help="URL of the server.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@contextmanager
def server_at(url: str) -> Iterator[Api]:
    """A client of the server at `url`, with the key of SLIM_API_KEY if it is set."""
    key = Settings().api_key
    with closing(Api(url, key.get_secret_value() if key else None)) as server:
        yield server
