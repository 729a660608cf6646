"""A worker whose attempts are sampled: python -m benchmarks.job_bench.sampled_worker."""

from service.settings import Settings
from worker.attempts.rq_worker import SlimWorker


class SampledWorker(SlimWorker):
    """A worker with another process for its attempts."""

    child = "benchmarks.job_bench.sampled_process"


if __name__ == "__main__":
    SampledWorker(Settings().redis_url, "bench").work(logging_level="WARNING")
