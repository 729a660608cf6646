"""The directory in which an attempt works, and what it means when that is full."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from service.contract.errors import InvalidData, InvalidModel, ScratchFull

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_RUST = f"os error {errno.ENOSPC}"  # safetensors tells it in words only


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory in TMPDIR, deleted at the end. Raises ScratchFull for whatever a lack of room has stopped.

    TMPDIR or /tmp, never another place: Python by itself would go on in the working directory when these are full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="taskslim-", dir=os.environ.get("TMPDIR") or "/tmp") as directory:
            yield Path(directory)
    except (OSError, SafetensorError, InvalidModel, InvalidData) as error:
        if not lacks_room(error):
            raise
        raise ScratchFull("the worker's scratch directory (TMPDIR) has no room for this job; give it more") from error


def lacks_room(error: BaseException | None) -> bool:
    """Whether a full disk is the error or the reason for it."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return FULL_IN_RUST in str(error) or lacks_room(error.__cause__ or error.__context__)
