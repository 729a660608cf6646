"""The fixture of the tests that measure unit scores."""

from pathlib import Path

import pytest
import torch
from redis import Redis

from service.settings import Settings
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support import checkpoints
from tests.support.scoring_jobs import ScoringJobs


@pytest.fixture
def jobs(tmp_path: Path, settings: Settings, storage: Storage, redis: Redis) -> ScoringJobs:
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "llama", "llama")
    return ScoringJobs(tmp_path, settings, storage, ScoreSets(redis, storage))
