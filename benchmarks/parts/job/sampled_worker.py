"""A worker whose attempts are sampled."""

from service.settings import Settings
from worker.attempts.rq_worker import SlimWorker


class SampledWorker(SlimWorker):
    """A worker with another process for its attempts."""

    child = "benchmarks.parts.job.sampled_process"


def main() -> None:
    """Run it until it is stopped. RQ refuses a class of `__main__`."""
    SampledWorker(Settings().redis_url, "bench").work(logging_level="WARNING")
