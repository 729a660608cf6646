"""The command `taskslim slim`: makes a request of a few options, plans it, submits it, and waits for the files."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from service.cli.client import Api, ApiFailed
from service.cli.downloads import download_files
from service.cli.row_files import NamedRows, check_columns, place_of, row_uploads
from service.cli.server_option import DEFAULT_URL, Url, server_at
from service.cli.short_request import DEFAULT_RATIO, TARGET, Answer, model_of, target_of, wording_of, wrong
from service.cli.terminal import follow, plan_line, print_json, result_of, result_table
from service.contract.errors import NotPlannable, StorageUnavailable
from service.contract.fields import MAX_RATIO
from service.contract.options import TaskKind
from service.contract.presets import PRESETS
from service.contract.request import JobRequest
from service.contract.task import Task, TaskWording

# Codes of plans that are refused although a job may be accepted: its worker reads the model.
UNPLANNED = (NotPlannable.code, StorageUnavailable.code)

app = typer.Typer()
out = Console()
err = Console(stderr=True)


def _presets(typed: str) -> list[str]:
    """The presets that complete what was typed in a shell."""
    return [name for name in PRESETS if name.startswith(typed)]


@app.command()
def slim(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A directory or GGUF file, or a URI such as hf://owner/name.")
    ],
    rows: Annotated[str, typer.Option(metavar="FILE", help="Rows with right answers: a file, or a URI.")],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET|TEMPLATE",
            autocompletion=_presets,
            help=f"A preset ({', '.join(PRESETS)}), or a template such as 'Review: {{text}}\\nSentiment:'.",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Evaluation rows; default: a fifth of --rows, which is set aside for it."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use N of --rows, drawn with a fixed seed; default: all.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="LABEL=WORD,...", help="Answer word of each label in the rows; default: the preset's."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column with the texts that the model writes, in place of labels."),
    ] = None,
    kind: Annotated[
        TaskKind | None,
        typer.Option(help="What is answered; default: one of --labels, or the texts of --target."),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column with conversations, in place of --task."),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help=f"Remove this share of the feed-forward parameters, at most {MAX_RATIO}; default: {DEFAULT_RATIO}.",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Find the smallest model that keeps this share of the metric."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Name of the task in the result; default: the preset.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it ends; exit with 1 unless it succeeds.")] = False,
    download: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Wait as --watch does, then write the files of the job here.")
    ] = None,
    print_request: Annotated[
        bool, typer.Option("--print-request", help="Upload and plan, then print the request and submit no job.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Slim a model for one task: upload the rows, plan the request, submit it and print the id of the job.

    The request goes to standard error. Saved to a file, `taskslim submit` sends it again.
    """
    if print_request and (watch or download):
        raise wrong("--print-request", "no job is submitted: leave out --watch and --download")
    source, goal = model_of(model), target_of(keep, ratio)
    wording = wording_of(task, Answer(kind, labels, target), messages=messages, name=name)
    given = {"--rows": rows} | ({} if evaluation is None else {"--evaluation": evaluation})
    places = {option: _place(option, text, target) for option, text in given.items()}
    with server_at(url) as server:
        with row_uploads(server, err) as uploads:
            named = {option: uploads.send(place, target) for option, place in places.items()}
            asked = _task(wording, named["--rows"], named.get("--evaluation"), limit)
            request = JobRequest(model=source, task=asked, target=goal).model_dump(mode="json", exclude_unset=True)
            _plan(server, request)
        if print_request:
            print_json(request)
        else:
            err.print(json.dumps(request, indent=2, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)
            _run(server, request, watch, download)


def _place(option: str, text: str, target_column: str | None) -> Path | str:
    """The file or URI of an option. Raises BadParameter, also for a URI whose rows would need another column name."""
    place = place_of(option, text)
    if isinstance(place, str) and target_column not in (None, TARGET):
        raise wrong(option, f"the texts at a URI must be in the column {TARGET!r}: rename the column, or give a file")
    return place


def _task(wording: TaskWording, rows: NamedRows, judged: NamedRows | None, limit: int | None) -> Task:
    """The task with its rows. Raises InvalidData for rows that lack a column, BadParameter for the same rows twice."""
    sources: dict[str, Any] = {"calibration": {"uri": rows.uri} | ({"limit": limit} if limit else {})}
    if judged is not None:
        _check_differ(rows, judged)
        sources["evaluation"] = {"uri": judged.uri}
    task = Task.model_validate(wording.model_dump(exclude_unset=True) | sources)
    for param, named in (("task.calibration", rows), ("task.evaluation", judged)):
        if named is not None:
            check_columns(named, task, param)
    return task


def _check_differ(rows: NamedRows, judged: NamedRows) -> None:
    same = rows.uri == judged.uri
    if rows.dataset and judged.dataset:
        same = rows.dataset.sha256 == judged.dataset.sha256
    if same:
        message = "the rows are those of --rows: leave it out, and a fifth of them is set aside"
        raise wrong("--evaluation", message)


def _plan(server: Api, request: dict[str, Any]) -> None:
    """Show the plan of the request. Raises ApiFailed for what a job would be refused for."""
    try:
        line = plan_line(server.plan(request))
    except ApiFailed as error:
        if error.problem_code not in UNPLANNED:
            raise
        line = f"not planned: {error.message}"
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def _run(server: Api, request: dict[str, Any], watch: bool, directory: Path | None) -> None:
    job = server.submit(request)
    out.print(job.id, highlight=False)
    if watch or directory:
        err.print(result_table(result_of(follow(server, job, err))))
    if directory:
        written = download_files(server, job.id, directory, err)
        err.print(f"{written} files in {directory}", soft_wrap=True, markup=False, highlight=False)
