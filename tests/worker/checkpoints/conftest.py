"""The checkpoint that the tests of this package share."""

from pathlib import Path

import pytest

from tests.support import checkpoints


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint of a tiny Llama."""
    checkpoints.write(tmp_path / "model")
    return tmp_path / "model"
