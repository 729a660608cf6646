"""The command `taskslim`: run the service, or send requests to one.

It never imports torch: commands that need it start `python -m worker`.
"""

import sys

import typer
from rich.console import Console

from service.cli import jobs, keys, scores, serve
from service.contract.errors import TaskslimError

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
    """Run the command line. A TaskslimError ends it with its message and exit code 1."""
    try:
        app()
    except TaskslimError as error:
        Console(stderr=True).print(error.message, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
