"""The deployment that the tests of jobs share."""

from pathlib import Path

import pytest
import torch

from tests.support.pipeline_jobs import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path)
