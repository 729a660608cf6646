"""Rows that options name: files of this machine, which are uploaded as they are, and URIs that the server reads.

Every file is uploaded, whatever its size: the server alone parses rows, and the request stays short enough to be read,
saved and sent again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console

from service.cli.client import Api, ApiFailed
from service.cli.short_request import path_at, wrong
from service.contract.answers.resources import Dataset
from service.contract.errors import InvalidData, InvalidRequest, TaskslimError
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import LABEL_COLUMN, needs_answers, resolve
from service.contract.request.task import Task
from service.rows.checks import needed_columns
from service.rows.labels import CLASS_NAME
from service.storage.row_formats import FORMAT_BY_ENDING

ENDINGS = ", ".join(FORMAT_BY_ENDING)
EITHER = f"give a file of this machine ({ENDINGS}), or a URI such as s3://bucket/rows.jsonl"


@dataclass(frozen=True)
class NamedRows:
    """Rows of a request: how the option names them, their URI, and the data set if they were uploaded."""

    name: str
    uri: str
    dataset: Dataset | None = None


def place_of(option: str, text: str) -> Path | str:
    """The file or the URI that an option names. Raises BadParameter for a file that is missing or of no format."""
    if "://" in text:
        return text
    path = path_at(option, text)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise wrong(option, f"{text} {what}: {EITHER}")
    if path.suffix.lower() not in FORMAT_BY_ENDING:
        raise wrong(option, f"{text} does not end in one of {ENDINGS}: rename or convert it")
    return path


@dataclass
class RowUploads:
    """Uploads the files of a command and says so on `console`."""

    server: Api
    console: Console
    _made: list[Dataset] = field(default_factory=list, init=False)

    def send(self, place: Path | str, target_column: str | None = None) -> NamedRows:
        """The rows at a place, uploaded if it is a file. `target_column` is the file's name of the column `target`.

        Raises ApiFailed, and InvalidData if the file cannot be read.
        """
        if isinstance(place, str):
            return NamedRows(place, place)
        media_type = FORMAT_BY_ENDING[place.suffix.lower()].media_types[0]
        try:
            dataset = self.server.upload(place, media_type, target_column)
        except OSError as error:
            raise InvalidData(f"{place} cannot be read: {error.strerror or error}") from error
        self._made.append(dataset)
        message = f"{place.name}: {dataset.rows} rows uploaded as {dataset.uri}"
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)
        return NamedRows(str(place), dataset.uri, dataset)

    def delete(self) -> None:
        """Delete what was uploaded, as far as the server lets it be deleted."""
        for dataset in self._made:
            with suppress(ApiFailed):
                self.server.delete_dataset(dataset.id)


@contextmanager
def row_uploads(server: Api, console: Console) -> Iterator[RowUploads]:
    """Uploads that are deleted again if the block ends with an error, so that a refused command leaves nothing.

    They stay where the server may have accepted the request that names them.
    """
    uploads = RowUploads(server, console)
    try:
        yield uploads
    except (TaskslimError, typer.TyperException) as error:
        if not isinstance(error, ApiFailed) or error.is_refusal:
            uploads.delete()
        raise


def task_in(request: Any) -> dict[str, Any]:
    """The task of a request as it was read from JSON. Raises InvalidRequest if it has none."""
    task = request.get("task") if isinstance(request, dict) else None
    if not isinstance(task, dict):
        message = "--calibration and --evaluation are rows of `task`, which the request does not have"
        raise InvalidRequest(f"{message}: give it one, or name rows within `tasks`")
    return task


def with_rows(request: Any, part: str, rows: NamedRows) -> dict[str, Any]:
    """A request as it was read from JSON, with rows as `calibration` or `evaluation` of its task.

    They replace those that it names; `limit` and the other fields of the part stay. Raises InvalidRequest as `task_in`,
    and InvalidData as `check_columns`.
    """
    task = task_in(request)
    before = task.get(part)
    kept = {name: value for name, value in before.items() if name != "rows"} if isinstance(before, dict) else {}
    changed: dict[str, Any] = request | {"task": task | {part: kept | {"uri": rows.uri}}}
    with suppress(ValidationError, InvalidRequest):  # which the server describes
        parsed = JobRequest.model_validate(changed).task
        if parsed is not None:
            check_columns(rows, parsed, f"task.{part}")
    return changed


def check_columns(rows: NamedRows, task: Task, param: str) -> None:
    """Raise InvalidData if uploaded rows lack a column that the task reads; `param` is the field that names them."""
    if rows.dataset is None:
        return
    task = resolve(task)
    needed = needed_columns(task, answered=needs_answers(task, param, has_some=False))
    missing = sorted(needed - _readable(rows.dataset.columns))
    if missing:
        message = f"{rows.name} lacks {_listed(missing)}, which the task reads; its columns are"
        raise InvalidData(f"{message} {_listed(rows.dataset.columns)}: rename them, or name them in the task")


def _readable(columns: Sequence[str]) -> set[str]:
    """The columns that a task can read; the class names of labels stand for the labels."""
    return {*columns, *({LABEL_COLUMN} if CLASS_NAME.format(LABEL_COLUMN) in columns else ())}


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(repr(column) for column in columns)
