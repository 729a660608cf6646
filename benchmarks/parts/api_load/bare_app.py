"""The minimal app to compare with: POST /jobs enqueues the body in RQ, GET /jobs/{id} returns one Redis hash.

python -m benchmarks.parts.api_load.bare_app REDIS_URL PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import Body, FastAPI
from redis import Redis
from rq import Queue


def bare_app(url: str) -> FastAPI:
    """The app, written as in the documentation of FastAPI and RQ."""
    queue = Queue("bare", connection=Redis.from_url(url), serializer="json")
    redis = Redis.from_url(url, decode_responses=True)
    app = FastAPI()

    @app.post("/jobs", status_code=202)
    def create_job(request: dict[str, Any] = Body()) -> dict[str, str]:  # noqa: B008
        return {"id": queue.enqueue_call("nowhere.run", kwargs={"request": request}).id}

    @app.get("/jobs/{job_id}")
    def get_job(job_id: str) -> dict[str, str]:
        return redis.hgetall(f"bare:{job_id}")  # type: ignore[return-value]

    return app


if __name__ == "__main__":
    uvicorn.run(bare_app(sys.argv[1]), port=int(sys.argv[2]), log_config=None, access_log=False)
