"""The command `taskslim`: run the service, or send requests to one.

It never imports torch: commands that need it start `python -m worker`.
"""

import sys
from typing import NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from service.cli.commands import jobs, keys, privatise, run, scores, serve, slim
from service.contract.errors import TaskslimError
from service.infrastructure.redis_client import OUTAGES
from service.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run the Taskslim service, or use one.",
)
app.add_typer(serve.app)
app.add_typer(slim.app)
app.add_typer(privatise.app)
app.add_typer(jobs.app)
app.add_typer(run.app)
app.add_typer(keys.app, name="keys")
app.add_typer(scores.app, name="scores")


def main() -> NoReturn:
    """Run the command line and exit, with 0 if the command did what it says.

    Wrong options, arguments and settings end it with 2, a TaskslimError or a Redis that is away with 1.
    """
    try:
        sys.exit(app(prog_name="taskslim", standalone_mode=False) or 0)
    except typer.TyperException as error:
        _fail(_in_words(error), error.exit_code)
    except TaskslimError as error:
        _fail(error.message)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        _fail("; ".join(f"SLIM_{str(entry['loc'][0]).upper()}: {entry['msg']}" for entry in error.errors()), 2)
    except OUTAGES as error:
        _fail(f"Redis does not answer ({error}): start it, or set SLIM_REDIS_URL to one that runs")


def _in_words(error: typer.TyperException) -> str:
    """What is wrong with the options, and where the right ones are shown unless the message says so."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if not message or context is None or isinstance(error, typer.BadParameter):
        return message
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See `{context.command_path} --help`."


def _fail(message: str, code: int = 1) -> NoReturn:
    if message:  # empty where `taskslim` alone has shown its help
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
