"""The deployment, the checkpoint and the access that the tests of the worker share."""

from pathlib import Path

import pytest
import torch
from redis import Redis

from service.settings import Settings
from service.sources.access import Access
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment
from tests.support.scoring_jobs import ScoringJobs


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


@pytest.fixture
def jobs(tmp_path: Path, settings: Settings, storage: Storage, redis: Redis) -> ScoringJobs:
    """Makes jobs that measure unit scores."""
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "llama", "llama")
    return ScoringJobs(tmp_path, settings, storage, ScoreSets(redis, storage))
