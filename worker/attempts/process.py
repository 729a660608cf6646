"""The process of one attempt, which `worker.attempts.rq_worker` starts.

Usage: python -m worker.attempts.process PARENT WORKER RQ_JOB EXECUTION, with the process id of the worker, its name,
and the ids of the RQ job and of RQ's execution.
"""

import sys

from rq.executions import Execution

from service.infrastructure import tracing
from service.infrastructure.child_process import die_with_parent
from service.infrastructure.logs import configure
from service.jobs.rq_jobs import SERIALIZER, RqJob
from service.settings import Settings
from worker.attempts.rq_worker import SlimWorker


def main() -> None:
    """Run the RQ job, and end with the worker that started this process."""
    parent, worker_name, rq_job_id, execution_id = sys.argv[1:]
    die_with_parent(int(parent))
    configure("worker")
    tracing.configure("worker")
    worker = SlimWorker(Settings().redis_url, worker_name, prepare_for_work=False)
    job = RqJob.fetch(rq_job_id, connection=worker.connection, serializer=SERIALIZER)
    worker.execution = Execution.fetch(execution_id, rq_job_id, connection=worker.connection)
    worker.main_work_horse(job, worker.queues[0])


if __name__ == "__main__":
    main()
