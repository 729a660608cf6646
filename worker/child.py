"""The process of one attempt, started by `worker.spawn`: python -m worker.child PARENT WORKER ENTRY EXECUTION"""

import sys

from rq.executions import Execution

from service import tracing
from service.entries import SERIALIZER, SlimJob
from service.settings import Settings
from service.telemetry import configure
from service.tether import die_with_parent
from worker.spawn import SlimWorker


def main() -> None:
    parent, worker_name, entry, execution_id = sys.argv[1:]
    die_with_parent(int(parent))
    configure("worker")
    tracing.configure("worker")
    worker = SlimWorker(Settings().redis_url, worker_name, prepare_for_work=False)
    job = SlimJob.fetch(entry, connection=worker.connection, serializer=SERIALIZER)
    worker.execution = Execution.fetch(execution_id, entry, connection=worker.connection)
    worker.main_work_horse(job, worker.queues[0])


if __name__ == "__main__":
    main()
