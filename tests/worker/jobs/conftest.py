"""The task that the tests of encoders without a head share."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import checkpoints, sentence_files
from tests.support.embedded_pairs import TASK, pairs
from tests.support.pipeline_jobs import Deployment, write_rows
from tests.support.tiny_models import encoder


@pytest.fixture
def embedded(deployment: Deployment) -> Callable[..., dict[str, Any]]:
    """Makes the task of an encoder with files of sentence-transformers where `pooling` is given; `fields` replace its
    own."""

    def task(name: str = "bert", pooling: str = "", **fields: Any) -> dict[str, Any]:
        if not (deployment.root / name).exists():
            checkpoints.save(deployment.root / name, encoder(name))
            if pooling:
                sentence_files.write(deployment.root / name, pooling)
        uri = write_rows(deployment.root / "pairs.jsonl", pairs())
        return TASK | {"calibration": {"uri": uri, "limit": 12}, "evaluation": {"uri": uri}} | fields

    return task
