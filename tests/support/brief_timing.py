"""Times models by as few runs as the statistics need, where a test is about something else than time.

With all runs, the timing takes more than a third of a job on a tiny model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worker.evaluation import generation_speed, latency
from worker.stages.evaluation import speed

LEAST = 2  # runs, for quartiles


@contextmanager
def timing_briefly() -> Iterator[None]:
    """Within the context, jobs in this process time few passes and write few tokens for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "RUNS", LEAST)
        patch.setattr(speed, "RUNS", LEAST)
        patch.setattr(speed, "REFERENCE_RUNS", LEAST)
        patch.setattr(generation_speed, "RUNS", LEAST)
        patch.setattr(generation_speed, "LEAST_RUNS", LEAST)
        patch.setattr(generation_speed, "NEW_TOKENS", LEAST)
        yield
