"""The checks of rows: inline rows one by one, rows at a URI by whether they are there."""

import stat

from service.contract.errors import InvalidData, NotFound
from service.contract.presets import needs_answers
from service.contract.rows import check_rows, have_answers
from service.contract.task import DataSource, TaskWording
from service.planning.row_counts import inline_rows
from service.sources.access import DATASET, Access, blaming
from service.sources.readers import LOCAL, REMOTE, scheme_of
from service.storage.keys import dataset_id_of, dataset_key
from service.storage.row_formats import FORMAT_BY_ENDING, checked_line


def check_data(source: DataSource, task: TaskWording, param: str, access: Access) -> None:
    """Check the rows of a resolved task; `param` is the field that names them.

    Raises InvalidData, UnknownLabel, InvalidTemplate, ForbiddenPath.
    """
    if source.rows is None:
        _check_uri(source.uri or "", f"{param}.uri", access)
    else:
        _check_inline_rows(source, task, param)


def _check_inline_rows(source: DataSource, task: TaskWording, param: str) -> None:
    try:
        rows = inline_rows(source, task) or []
        for row in rows:
            checked_line(row)
        check_rows(rows, task, answered=needs_answers(task, param, have_answers(rows, task)))
    except InvalidData as error:
        raise type(error)(error.message, param=error.param or f"{param}.rows") from error


def _check_uri(uri: str, param: str, access: Access) -> None:
    scheme = scheme_of(uri)
    if scheme == DATASET:
        if not access.storage.exists(dataset_key(access.tenant, dataset_id_of(uri))):
            raise InvalidData(f"{uri} does not exist: upload the rows with POST /datasets", param=param)
        return
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
