"""The checkpoint and the access that the tests of this package share."""

from pathlib import Path

import pytest

from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support import checkpoints


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint of a tiny Llama."""
    checkpoints.write(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Access of a caller who may name every local path."""
    return Access(Storage((tmp_path / "store").as_uri()), "default", local_paths=True)
