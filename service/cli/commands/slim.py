"""The command `taskslim slim`: makes a request of a few options, plans it, submits it, and waits for the files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from service.cli.client import Api, ApiFailed
from service.cli.downloads import download_files
from service.cli.options.server import DEFAULT_URL, Url, server_at
from service.cli.options.slim import (
    Directory,
    EvaluationFile,
    GeneralFile,
    KeptShare,
    Kind,
    Labels,
    Limit,
    MessagesColumn,
    Model,
    PrintRequest,
    Quantise,
    Recover,
    RemovedShare,
    RowsFile,
    TargetColumn,
    TaskWords,
    Title,
    Watch,
)
from service.cli.row_files import NamedRows, check_columns, place_of, row_uploads
from service.cli.short_request import TARGET, Answer, model_of, target_of, wording_of, wrong
from service.cli.terminal import follow, plan_line, print_json, result_of, result_table
from service.contract.errors import NotPlannable, StorageUnavailable
from service.contract.fields import GENERAL_PLACE
from service.contract.request.job_request import JobRequest
from service.contract.request.recovery import Recovery
from service.contract.request.task import Task, TaskWording

# Codes of plans that are refused although a job may be accepted: its worker reads the model.
UNPLANNED = (NotPlannable.code, StorageUnavailable.code)

app = typer.Typer()
out = Console()
err = Console(stderr=True)


@app.command()
def slim(
    model: Model,
    rows: RowsFile,
    task: TaskWords = None,
    evaluation: EvaluationFile = None,
    limit: Limit = None,
    labels: Labels = None,
    target: TargetColumn = None,
    kind: Kind = None,
    messages: MessagesColumn = None,
    ratio: RemovedShare = None,
    keep: KeptShare = None,
    recover: Recover = None,
    general: GeneralFile = None,
    quantise: Quantise = None,
    name: Title = None,
    watch: Watch = False,
    download: Directory = None,
    print_request: PrintRequest = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Slim a model for one task: upload the rows, plan the request, submit it and print the id of the job.

    The request goes to standard error. Saved to a file, `taskslim submit` sends it again.
    """
    if print_request and (watch or download):
        raise wrong("--print-request", "no job is submitted: leave out --watch and --download")
    source, goal = model_of(model), target_of(keep, ratio)
    wording = wording_of(task, Answer(kind, labels, target), messages=messages, name=name)
    given = {"--rows": rows, "--evaluation": evaluation, "--general": general}
    columns = {"--rows": target, "--evaluation": target}  # with the texts that the model writes
    places = {option: _place(option, text, columns.get(option)) for option, text in given.items() if text is not None}
    with server_at(url) as server:
        with row_uploads(server, err) as uploads:
            named = {option: uploads.send(place, columns.get(option)) for option, place in places.items()}
            further: dict[str, Any] = {"recovery": Recovery(method=recover)} if recover else {}
            further |= {"output": {"quantise": list(dict.fromkeys(quantise))}} if quantise else {}
            asked = _task(wording, named, limit)
            whole = JobRequest.model_validate({"model": source, "task": asked, "target": goal} | further)
            request = whole.model_dump(mode="json", exclude_unset=True)
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


def _task(wording: TaskWording, named: Mapping[str, NamedRows], limit: int | None) -> Task:
    """The task with the rows that each option names. Raises InvalidData for rows that lack a column, BadParameter for
    the same rows twice."""
    rows, judged, general = (named.get(option) for option in ("--rows", "--evaluation", "--general"))
    assert rows is not None, "an argument of the command"
    sources: dict[str, Any] = {"calibration": {"uri": rows.uri} | ({"limit": limit} if limit else {})}
    if judged is not None:
        _check_differ(rows, judged)
        sources["evaluation"] = {"uri": judged.uri}
    if general is not None:
        sources["general"] = {"uri": general.uri}
    task = Task.model_validate(wording.model_dump(exclude_unset=True) | sources)
    for param, part in (("task.calibration", rows), ("task.evaluation", judged)):
        if part is not None:
            check_columns(part, task, param)
    if general is not None and task.general is not None:
        check_columns(general, task.general.task, GENERAL_PLACE)
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
