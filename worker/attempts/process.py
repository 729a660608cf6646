"""The process of one attempt, which `worker.attempts.rq_worker` starts.

Usage: python -m worker.attempts.process PARENT WORKER ENTRY EXECUTION, with the process id of the worker, its name, and
the ids of RQ's job and execution.
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
    """Run the RQ job of the entry, and end with the worker that started this process."""
    parent, worker_name, entry, execution_id = sys.argv[1:]
    die_with_parent(int(parent))
    configure("worker")
    tracing.configure("worker")
    worker = SlimWorker(Settings().redis_url, worker_name, prepare_for_work=False)
    job = RqJob.fetch(entry, connection=worker.connection, serializer=SERIALIZER)
    worker.execution = Execution.fetch(execution_id, entry, connection=worker.connection)
    worker.main_work_horse(job, worker.queues[0])


if __name__ == "__main__":
    main()
