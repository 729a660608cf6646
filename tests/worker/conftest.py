"""The deployment, the checkpoint and the access that the tests of the worker share."""

from pathlib import Path

import pytest
import torch

from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint of a tiny Llama."""
    checkpoints.write(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Access of a caller who may name every local path."""
    return Access(Storage((tmp_path / "store").as_uri()), "default", local_paths=True)
