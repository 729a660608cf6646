"""The process of one attempt, which `worker.attempts.standby` starts before there is an attempt.

Usage: python -m worker.attempts.process PARENT WORKER, with the process id of the worker and its name. It imports what
an attempt needs, waits for a line with the ids of the RQ job and of RQ's execution, and runs that attempt. It ends
without one where its standard input ends.
"""

import sys
from importlib import import_module

from rq.executions import Execution
from rq.utils import import_attribute

from service.infrastructure import tracing
from service.infrastructure.child_process import die_with_parent, name_process
from service.infrastructure.logs import configure, take_over_loggers
from service.jobs.rq_jobs import FUNCTION, SERIALIZER, RqJob
from service.settings import Settings
from worker.attempts.rq_worker import SlimWorker
from worker.attempts.standby import HandedOver

WAITS, RUNS = "taskslim-waits", "taskslim-job"  # what `ps` and `top` call the process


def main() -> None:
    """Wait for an attempt and run it. The process ends with the worker that started it."""
    parent, worker_name = sys.argv[1:]
    die_with_parent(int(parent))
    configure("worker")
    import_module("torch")  # before what logs through it when it is imported, as torchao does
    take_over_loggers()
    import_attribute(FUNCTION)  # with all that an attempt imports, which takes seconds
    take_over_loggers()
    name_process(WAITS)
    line = sys.stdin.readline()
    if line:
        name_process(RUNS)
        run(worker_name, HandedOver.model_validate_json(line))


def run(worker_name: str, attempt: HandedOver) -> None:
    """Run the RQ job, and exit."""
    tracing.configure("worker")
    worker = SlimWorker(Settings().redis_url, worker_name, prepare_for_work=False)
    job = RqJob.fetch(attempt.rq_job, connection=worker.connection, serializer=SERIALIZER)
    worker.execution = Execution.fetch(attempt.execution, attempt.rq_job, connection=worker.connection)
    worker.main_work_horse(job, worker.queues[0])


if __name__ == "__main__":
    main()
