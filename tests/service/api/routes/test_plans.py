"""Plans over HTTP: the answer, and the same problems as for a job."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.openapi.response_examples import REPORT
from service.contract.answers.catalog import Plan
from service.contract.answers.report import Report, StageTiming
from service.contract.request.job_request import JobRequest
from service.planning.time_estimate import Durations
from service.sources.access import Access
from service.sources.fingerprints import fingerprints
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support import checkpoints
from tests.support.hub_cache import cache_hub_model
from tests.support.job_requests import model_directory
from tests.support.planning import LABELS, ROWS, request_for
from tests.support.score_sets import digest_of, measured, safetensors


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return cache_hub_model(monkeypatch, tmp_path)


def test_a_plan_queues_no_job(client: TestClient, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "qwen2")
    answer = client.post("/plans", json=request_for(tmp_path).model_dump(mode="json"))
    assert answer.status_code == 200, answer.text
    assert Plan.model_validate(answer.json()).family == "qwen2"
    assert client.get("/jobs").json()["data"] == []


PER_LAYER = {
    "layer_widths": {},
    "architectures": ["PerLayerLlamaForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM"},
}


def task(**fields: Any) -> dict[str, Any]:
    return {"task": {"template": "{text}:", "labels": LABELS, "calibration": {"rows": ROWS}} | fields}


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "ratio": {"target": {"ratio": 2}},
    "no width left": {"target": {"ratio": 0.9}, "output": {"round_to": 64}},
    "unknown field": {"targets": {"ratio": 0.3}},
    "no template": {"task": {"calibration": {"rows": ROWS}}},
    "unknown preset": {"task": {"preset": "none", "calibration": {"rows": ROWS}}},
    "template of no column": task(template="?"),
    "labels alike": task(labels={"bad": "x", "good": "x"}),
    "unnamed label": task(labels={"bad": "bad", "fair": "fair"}),
    "row without column": task(template="{title}:"),
    "no such data set": task(calibration={"uri": "dataset://none"}),
    "no such rows": task(evaluation={"uri": "file:///no/such.jsonl"}),
    "rows of no format": task(evaluation={"uri": "s3://bucket/rows.txt"}),
    "rows of no scheme": task(evaluation={"uri": "ftp://host/rows.jsonl"}),
    "rows twice": task(calibration={"rows": ROWS, "uri": "dataset://none"}),
    "no such model": {"model": {"uri": "file:///no/such/model"}},
    "model of no scheme": {"model": {"uri": "/models/tiny"}},
    "no such job": {"model": {"uri": "job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"}},
    "pickle": {"model": {"uri": "PICKLE"}},
    "family": {"model": {"uri": "FAMILY"}},
    "remote code": {"model": {"uri": "CODE"}},
    "widths of its own": {"model": {"uri": "WIDTHS"}},
    "damaged weights": {"model": {"uri": "DAMAGED"}},
    "no such adapter": {"model": {"uri": "MODEL", "adapter_uri": "file:///no/such/adapter"}},
    "no adapter": {"model": {"uri": "MODEL", "adapter_uri": "MODEL"}},
    "unit of another family": {"method": {"units": ["head_dims"]}},
    "unit that the criterion lacks": {"method": {"units": ["layers"], "criterion": "wanda"}},
    "unit twice": {"method": {"units": ["ffn", "ffn"]}},
    "margin without labels": task(kind="generation", labels=None, calibration={"rows": [{"text": "a", "target": "b"}]})
    | {"method": {"objective": "margin"}},
    "layout without rank": {"output": {"layout": "per_layer"}},
    "webhook without encryption": {"webhook": {"url": "http://hooks.example/"}},
}


def damaged_models(directory: Path) -> dict[str, str]:
    """Name in the table -> URI, of models that are no good, and of one that is."""
    configs: dict[str, dict[str, Any]] = {
        "PICKLE": {},
        "FAMILY": {"model_type": "mamba"},
        "CODE": {"auto_map": {"AutoModel": "code.Model"}},
        "WIDTHS": PER_LAYER,
        "DAMAGED": {},
        "MODEL": {},
    }
    for name, config in configs.items():
        names = ("pytorch_model.bin",) if name == "PICKLE" else ("model.safetensors",)
        model_directory(directory / name, names, **config)
    (directory / "DAMAGED/model.safetensors").write_bytes(b"{")
    return {name: (directory / name).as_uri() for name in configs}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_plan_and_a_job_are_refused_alike(client: TestClient, tmp_path: Path, case: str) -> None:
    checkpoints.write(tmp_path / "llama", "llama")
    text = json.dumps(request_for(tmp_path / "llama").model_dump(mode="json", exclude_unset=True) | IMPOSSIBLE[case])
    for name, uri in damaged_models(tmp_path).items():
        text = text.replace(f'"{name}"', f'"{uri}"')
    planned, submitted = (client.post(path, json=json.loads(text)) for path in ("/plans", "/jobs"))
    assert planned.status_code == submitted.status_code >= 400
    assert planned.json() | {"instance": "/jobs"} == submitted.json()


def test_a_gguf_model_is_taken_without_a_plan(client: TestClient, tmp_path: Path) -> None:
    body = request_for(tmp_path).model_dump(mode="json", exclude_unset=True)
    model = model_directory(tmp_path / "model", ("one.gguf",))
    (tmp_path / "model/config.json").unlink()
    for uri in (model, f"{model}/one.gguf"):
        planned, submitted = (client.post(path, json=body | {"model": {"uri": uri}}) for path in ("/plans", "/jobs"))
        assert (planned.status_code, planned.json()["code"], submitted.status_code) == (422, "not_plannable", 202)


def test_a_plan_says_whether_scores_are_stored_and_estimates_the_time(
    client: TestClient, tmp_path: Path, redis: Redis, storage: Storage
) -> None:
    checkpoints.write(tmp_path / "llama", "llama")
    body = request_for(tmp_path / "llama").model_dump(mode="json", exclude_unset=True)
    first = client.post("/plans", json=body).json()
    assert (first["scores_cached"], first["time"]) == (False, None)
    access = Access(storage, "default", True, ())
    found = fingerprints(JobRequest.model_validate(body), access)
    content = safetensors()
    scores, durations = ScoreSets(redis, storage), Durations(redis)
    scores.add("default", measured(content, digest_of("a")), content, days=1)
    scores.note("default", found.units, [digest_of("a")], days=1)
    timings = [
        StageTiming(stage=stage, seconds=seconds)
        # The model planned here is some ten thousand times smaller than that of the report.
        for stage, seconds in (("evaluate_dense", 5e6), ("attribute", 20e6), ("repair", 4e6), ("verify", 3e6))
    ]
    durations.record(Report.model_validate(REPORT).model_copy(update={"timings": timings}))
    cached = client.post("/plans", json=body).json()
    other = client.post("/plans", json=body | {"method": {"criterion": "wanda"}}).json()
    assert (cached["scores_cached"], other["scores_cached"]) == (True, False)
    assert cached["time"]["runs"] == other["time"]["runs"] == 1
    assert cached["time"]["seconds"] < other["time"]["seconds"]
    scores.note("default", found.rows, [digest_of("a")], days=1)
    assert client.post("/plans", json=body).json()["time"]["seconds"] < cached["time"]["seconds"]
    client.delete(f"/scores/{digest_of('a')}")
    assert client.post("/plans", json=body).json()["scores_cached"] is False


def test_a_plan_with_an_unreachable_adapter_leaves_scores_open(client: TestClient, hub: Path) -> None:
    body = request_for(hub, model={"uri": hub.as_uri(), "adapter_uri": "hf://owner/adapter"})
    planned = client.post("/plans", json=body.model_dump(mode="json", exclude_unset=True))
    assert (planned.status_code, planned.json()["scores_cached"]) == (200, None)
