"""The command `taskslim`: run the service, or send requests to one.

It never imports torch: commands that need it start `python -m worker`.
"""

import sys
from typing import NoReturn

import typer
from rich.console import Console

from service.cli import jobs, keys, scores, serve
from service.contract.errors import TaskslimError
from service.infrastructure.redis_client import OUTAGES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run the Taskslim service, or use one.",
)
app.add_typer(serve.app)
app.add_typer(jobs.app)
app.add_typer(keys.app, name="keys")
app.add_typer(scores.app, name="scores")


def main() -> None:
    """Run the command line. A TaskslimError or a Redis that is away ends it with a message and exit code 1."""
    try:
        app()
    except TaskslimError as error:
        _fail(error.message)
    except OUTAGES as error:
        _fail(f"Redis does not answer ({error}): start it, or set SLIM_REDIS_URL to one that runs")


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
