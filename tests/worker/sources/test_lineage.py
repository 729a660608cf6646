"""The model of an earlier job as the model of a job, and its lineage."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from ulid import ULID

from service.api.openapi.examples import SUCCEEDED
from service.api.openapi.response_examples import REPORT
from service.contract.answers.resources import Manifest, StoredFile
from service.contract.errors import InvalidModel
from service.sources.job_checkpoints import job_model
from service.storage.keys import attempt_prefix, manifest_key
from tests.support.scoring_jobs import ScoringJobs
from worker.sources.lineage import lineage
from worker.stages import inputs


def test_model_of_a_deleted_job_is_refused(jobs: ScoringJobs) -> None:
    with pytest.raises(InvalidModel, match="names no job of this tenant") as caught:
        jobs.cache(jobs.request(model={"uri": f"job://{ULID()}"}))
    assert caught.value.param == "model.uri"


def test_model_of_a_job_is_its_checkpoint(jobs: ScoringJobs) -> None:
    whole = jobs.digest(jobs.request())
    parent = leave(jobs, lineage=[ANCESTOR])
    cache, task_model = jobs.cache(jobs.request(model={"uri": f"job://{parent}"}))
    assert cache.units_key(task_model, (0.0,)).digest == whole
    sources = inputs.fetch(cache.context)
    assert [entry.job_id for entry in sources.lineage] == [ANCESTOR["job_id"], parent]
    assert (sources.lineage[1].revision, sources.lineage[1].adapter_uri) == ("v1.2", "s3://models/lora")
    assert sources.lineage[1].model == "s3://models/large"
    assert sources.lineage[1].parameters.slim == SUCCEEDED["result"]["parameters"]["slim"]


def test_lineage_has_the_figures_of_a_point_of_a_sweep(jobs: ScoringJobs) -> None:
    point = {"ratio": 0.1, "parameters": 90, "bytes": 900, "artifact": "model-0.1"}
    parent = leave(jobs, result=SUCCEEDED["result"] | {"curve": [point]})
    left = job_model(f"job://{parent}", jobs.storage, "default")
    [entry] = lineage(replace(left, directory="model-0.1"))
    assert (entry.ratio, entry.parameters.slim, entry.widths) == (0.1, 90, [])
    assert lineage(left)[0].ratio == SUCCEEDED["result"]["ratio"]


ANCESTOR: dict[str, Any] = {
    "job_id": "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    "model": "hf://owner/name",
    "ratio": 0.2,
    "parameters": {"dense": 100, "slim": 80},
    "widths": [],
}


def leave(jobs: ScoringJobs, **report: Any) -> str:
    """Store the checkpoint as the model of a finished job, and return the id of the job."""
    job_id, files = str(ULID()), []
    source = {"uri": "s3://models/large", "revision": "v1.2", "adapter_uri": "s3://models/lora"}
    request_with = REPORT | {"request": REPORT["request"] | {"model": source}} | report
    contents = {f"model/{path.name}": path.read_bytes() for path in (jobs.root / "llama").iterdir()}
    for name, content in (contents | {"report.json": json.dumps(request_with).encode()}).items():
        jobs.storage.put_bytes(content, attempt_prefix("default", job_id, 1) + name)
        files.append(StoredFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    manifest = Manifest(job_id=job_id, attempt=1, files=files)
    jobs.storage.put_bytes(manifest.model_dump_json().encode(), manifest_key("default", job_id))
    return job_id
