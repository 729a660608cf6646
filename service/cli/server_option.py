"""The server that a command uses: the option that names it, and a client of it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from service.cli.client import Api
from service.settings import Settings

Url = Annotated[str, typer.Option(envvar="SLIM_URL", help="The server.")]
HERE = "http://127.0.0.1:8000"


@contextmanager
def server_at(url: str) -> Iterator[Api]:
    """The server at `url`, asked with SLIM_API_KEY where that is set."""
    key = Settings().api_key
    with closing(Api(url, key.get_secret_value() if key else None)) as server:
        yield server
