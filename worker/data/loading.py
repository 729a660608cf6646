"""Loads the rows that a request names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import InvalidData, NotFound
from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN, needs_answers
from service.contract.request.task import DataSource, Task, TaskWording
from service.rows.checks import check_rows, have_answers, plain_texts
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.sources.access import DATASET
from service.sources.readers import fetch_file, scheme_of
from service.storage.draws import drawn
from service.storage.keys import are_of_request, dataset_id_of, dataset_key
from service.storage.object_store import Storage
from service.storage.row_formats import read_file
from worker.data.sampling import set_aside


@dataclass(frozen=True)
class Location:
    """The places that rows may be read from, and the directory that remote files are downloaded to."""

    storage: Storage
    tenant: str
    scratch: Path
    roots: Sequence[Path] = ()


def load_rows(task: Task, location: Location) -> tuple[list[Row], list[Row]]:
    """(calibration rows, evaluation rows) of a resolved task. A task without evaluation rows gives up a fifth of the
    calibration rows.

    Raises InvalidData, UnknownLabel, InvalidTemplate, ForbiddenPath, StorageUnavailable.
    """
    calibration = read_source(task.calibration, "task.calibration", task, location)
    if task.evaluation is not None:
        return calibration, read_source(task.evaluation, "task.evaluation", task, location)
    with _blaming(task.calibration, "task.calibration"):
        return _split(calibration, task)


def _split(rows: Sequence[Row], task: Task) -> tuple[list[Row], list[Row]]:
    """(rows that stay, rows that are set aside for the evaluation). Of the latter all have answers, or none."""
    labelled = task.kind is TaskKind.classification and have_answers(rows, task)
    stay, aside = set_aside(rows, LABEL_COLUMN if labelled else None, task.calibration.seed)
    check_rows(aside, task, answered=needs_answers(task, "task.evaluation", have_answers(aside, task)))
    return stay, aside


def read_source(source: DataSource, param: str, task: TaskWording, location: Location) -> list[Row]:
    """The drawn and checked rows of a source that the field `param` of the request names. Raises as `load_rows`."""
    with _blaming(source, param):
        rows = drawn(with_named_labels(read_file(_fetch(source.uri or "", location)), task), source)
        check_rows(rows, task, answered=needs_answers(task, param, have_answers(rows, task)))
    return rows


def read_texts(source: DataSource, param: str, location: Location) -> list[str]:
    """The drawn texts of a source of plain texts that the field `param` of the request names. Raises as `load_rows`."""
    with _blaming(source, param):
        return plain_texts(drawn(read_file(_fetch(source.uri or "", location)), source))


@contextmanager
def _blaming(source: DataSource, param: str) -> Iterator[None]:
    """Raise InvalidData with the URI of the rows and the field that names them, and NotFound as InvalidData."""
    uri = source.uri or ""
    # The rows of a request are stored as a data set, and the request that is read here names this.
    place, start = (f"{param}.rows", "") if are_of_request(uri) else (f"{param}.uri", f"{uri}: ")
    try:
        yield
    except InvalidData as error:
        raise type(error)(f"{start}{error.message}", param=error.param or place) from error
    except NotFound as error:
        raise InvalidData(f"{uri} does not exist", param=place) from error


def _fetch(uri: str, location: Location) -> Path:
    """A local file with the rows at a URI; uploaded rows are downloaded from the tenant's storage."""
    if scheme_of(uri) != DATASET:
        return fetch_file(uri, location.scratch, roots=location.roots)
    name = dataset_id_of(uri)
    path = location.scratch / f"{name}.jsonl"
    location.storage.get_file(dataset_key(location.tenant, name), path)
    return path
