"""The checks of rows: inline rows and those of small data sets one by one, others by whether they are there."""

import json
import stat
from collections.abc import Sequence

from service.contract.errors import InvalidData, NotFound, blaming_rows
from service.contract.request.presets import needs_answers
from service.contract.request.task import DataSource, TaskWording
from service.contract.row_values import usable_values
from service.planning.row_counts import inline_rows
from service.rows.checks import check_rows, have_answers, plain_texts
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.sources.access import DATASET, Access, blaming
from service.sources.readers import LOCAL, REMOTE, scheme_of
from service.storage.draws import drawn
from service.storage.keys import dataset_id_of, dataset_key
from service.storage.row_formats import FORMAT_BY_ENDING, checked_line

MAX_READ_BYTES = 2**20  # the worker checks the rows of a larger data set: a client waits for the answer


def check_data(source: DataSource, task: TaskWording, param: str, access: Access) -> None:
    """Check the rows of a resolved task; `param` is the field that names them.

    Raises InvalidData, UnknownLabel, InvalidTemplate, ForbiddenPath.
    """
    uri = source.uri or ""
    with blaming_rows(f"{param}.uri" if source.rows is None else f"{param}.rows"):
        rows = inline_rows(source, task)
        if rows is not None:
            _check_inline_rows(rows, task, param)
        elif scheme_of(uri) == DATASET:
            _check_dataset(source, task, param, access)
        else:
            _check_uri(uri, f"{param}.uri", access)


def check_texts(source: DataSource, param: str, access: Access) -> None:
    """Check the rows of plain texts; `param` is the field that names them. Raises InvalidData, ForbiddenPath."""
    uri = source.uri or ""
    with blaming_rows(f"{param}.uri" if source.rows is None else f"{param}.rows"):
        if source.rows is not None:
            rows = [Row(values, number, counted_in="row") for number, values in enumerate(source.rows, start=1)]
            plain_texts([row for row in rows if checked_line(row)])
        elif scheme_of(uri) == DATASET:
            plain_texts(drawn(_stored_rows(source, access), source))
        else:
            _check_uri(uri, f"{param}.uri", access)


def _check_inline_rows(rows: Sequence[Row], task: TaskWording, param: str) -> None:
    for row in rows:
        checked_line(row)
    check_rows(rows, task, answered=needs_answers(task, param, have_answers(rows, task)))


def _check_dataset(source: DataSource, task: TaskWording, param: str, access: Access) -> None:
    """Check that a data set is there, and as the worker does the rows that are drawn, unless it is large."""
    stored = _stored_rows(source, access)
    if not stored:
        return
    rows = drawn(with_named_labels(stored, task), source)
    check_rows(rows, task, answered=needs_answers(task, param, have_answers(rows, task)))


def _stored_rows(source: DataSource, access: Access) -> list[Row]:
    """The rows of a data set; none where it is large. Raises InvalidData where it does not exist."""
    key = dataset_key(access.tenant, dataset_id_of(source.uri or ""))
    try:
        if access.storage.stat(key).size > MAX_READ_BYTES:
            return []
        lines = access.storage.get_bytes(key).splitlines()
    except NotFound as error:
        raise InvalidData(f"{source.uri} does not exist: upload the rows with POST /datasets") from error
    return [Row(usable_values(json.loads(line)), number) for number, line in enumerate(lines, start=1)]


def _check_uri(uri: str, param: str, access: Access) -> None:
    scheme = scheme_of(uri)
    if scheme != LOCAL and scheme not in REMOTE:
        raise InvalidData(f"{uri} must start with file://, s3://, gs://, az:// or dataset://", param=param)
    with blaming(param, InvalidData):
        access.check(uri)
    if not uri.lower().endswith(tuple(FORMAT_BY_ENDING)):
        raise InvalidData(f"{uri} does not end in one of {', '.join(FORMAT_BY_ENDING)}", param=param)
    if scheme == LOCAL:
        with blaming(param, InvalidData):
            if not stat.S_ISREG(access.locate(uri)[1].st_mode):
                raise NotFound(f"{uri} is not a file")
