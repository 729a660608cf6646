"""The temporary directory of an attempt, and the error for a full disk."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from service.contract.errors import InvalidData, InvalidModel, ScratchFull

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_RUST = f"os error {errno.ENOSPC}"  # safetensors reports it in the text of its error alone


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory in TMPDIR or /tmp, deleted after the block.

    Raises ScratchFull for an error within the block that a full disk has caused.

    No other directory is used: `tempfile` would choose the working directory where these are full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="taskslim-", dir=os.environ.get("TMPDIR") or "/tmp") as directory:
            yield Path(directory)
    except (OSError, SafetensorError, InvalidModel, InvalidData) as error:
        if not lacks_room(error):
            raise
        message = "the worker's scratch directory (TMPDIR) has no room for this job: set TMPDIR to a larger disk"
        raise ScratchFull(message) from error


def lacks_room(error: BaseException | None) -> bool:
    """Whether a full disk is the error or its cause."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return FULL_IN_RUST in str(error) or lacks_room(error.__cause__ or error.__context__)
