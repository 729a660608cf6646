"""Puts RQ jobs into the queue that the service did not make."""

from typing import Any

from redis import Redis

from service.jobs.rq_jobs import QUEUE, SERIALIZER, RqJob

FOREIGN = "intruder"  # the id of the RQ job


def put_foreign_rq_job(redis: Redis, payload: list[Any]) -> None:
    """Put an RQ job into the queue: (function, instance, arguments, options), with callbacks and without a timeout."""
    rq_job = RqJob.create("x.y", id=FOREIGN, connection=redis, serializer=SERIALIZER, origin=QUEUE)
    rq_job.data = rq_job.serializer.dumps(payload)
    rq_job._success_callback_name = rq_job._failure_callback_name = "os.getcwd"
    rq_job.save()
    redis.sadd("rq:queues", f"rq:queue:{QUEUE}")
    redis.rpush(f"rq:queue:{QUEUE}", rq_job.id)
