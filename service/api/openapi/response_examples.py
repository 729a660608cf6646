"""Example responses of each operation and example messages of each webhook, by operation id.

`service.api.openapi.document` adds them to the OpenAPI document; a test fails for an operation without a row. Their
figures are made up.
"""

from typing import Any

from service.api.openapi.examples import BASE, EXAMPLE_JOB_ID, JOBS, QUEUED, SST2, SUCCEEDED

DATASET_ID = "01KB3ZH2M4C8V6B1N3K5J7H9G0"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SECRET = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

DATASET = {
    "id": DATASET_ID,
    "object": "dataset",
    "uri": f"dataset://{DATASET_ID}",
    "name": "reviews",
    "rows": 2,
    "columns": ["label", "text"],
    "size": 85,
    "sha256": DIGEST,
    "created_at": "2026-11-22T09:28:00Z",
    "expires_at": "2026-12-22T09:28:00Z",
}
EVENT = {
    "id": "1795339802000-0",
    "type": "status",
    "at": "2026-11-22T09:30:02Z",
    "attempt": 1,
    "data": {"status": "running"},
}
STREAM = f'id: {EVENT["id"]}\nevent: status\ndata: {{"id":"{EVENT["id"]}","type":"status", ...}}\n\n'
ARTIFACT = {
    "name": "model/config.json",
    "size": 818,
    "sha256": DIGEST,
    "url": f"{BASE}/artifacts/model/config.json",
}
DELIVERY = {
    "message_id": f"{EXAMPLE_JOB_ID}-1795339870000-0",
    "type": "job.succeeded",
    "at": "2026-11-22T09:31:10Z",
    "attempt": 1,
    "outcome": "delivered",
    "status": 204,
}
PLAN = {
    "family": "llama",
    "exact": True,
    "widths": SUCCEEDED["result"]["widths"],
    "ratio": 0.292,
    "parameters": {"dense": 134515008, "slim": 111290688},
    "bytes": {"dense": 269060552, "slim": 222611880},
    "cache_bytes_per_token": {"dense": 23040, "slim": 23040},
    "memory": {
        "weights": 269030016,
        "cpu_weights": 538060032,
        "streamed_on_cpu": True,
        "matrices": 323420160,
        "batch": 3680501760,
        "state_per_token": 10752,
        "devices": [
            {
                "device": 8589934592,
                "holds_weights": True,
                "scoring_passes": 1,
                "repair_passes": 0,
                "peak": 4272951936,
            }
        ],
    },
    "runtimes": [{"name": "transformers", "loads": True, "quantisations": [], "tensor_parallel": []}],
    "precisions": [{"precision": "int8", "possible": True}],
    "scores_cached": False,
    "time": {"seconds": 68.4, "runs": 12},
}
CAPABILITIES = {
    "version": "0.1.0",
    "families": [
        {
            "model_type": "bert",
            "kind": "classifier",
            "units": ["ffn", "layers"],
            "refused": {"heads": "its config has no head size of its own"},
        }
    ],
    "units": ["ffn", "heads", "head_dims", "layers", "experts"],
    "criteria": ["attribution", "wanda", "magnitude"],
    "repairs": ["none", "bias", "least_squares", "least_squares_layerwise"],
    "presets": [
        {
            "name": "sst2",
            "kind": "classification",
            "template": "Review: {sentence}\nSentiment:",
            "labels": {"0": "negative", "1": "positive"},
        }
    ],
    "limits": {"max_body_bytes": 16777216, "max_ratio": 0.95, "max_rows": 100000},
}
REPORT = {
    "job_id": EXAMPLE_JOB_ID,
    "attempt": 1,
    "request": SST2,
    "task": {"template": "Review: {sentence}\nSentiment:", "labels": {"0": "negative", "1": "positive"}},
    "family": "llama",
    "result": SUCCEEDED["result"],
    "options": {"criterion": "attribution", "objective": "margin"},
    "calibration_examples": 205,
    "shortened_prompts": 0,
    "timings": [{"stage": "attribute", "seconds": 21.4}],
    "versions": {"taskslim": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    "digests": {"model": DIGEST, "evaluation": DIGEST},
    "snippet": 'model = AutoModelForCausalLM.from_pretrained("model")',
}
SCORES = {
    "digest": DIGEST,
    "object": "score_set",
    "kind": "units",
    "job_id": EXAMPLE_JOB_ID,
    "model": SST2["model"],
    "family": "llama",
    "task": {"kind": "classification", "template": "Review: {text}", "labels": {"0": "negative", "1": "positive"}},
    "method": {"criterion": "attribution", "units": ["ffn"]},
    "ratios": [0.0],
    "rows": 205,
    "digests": {"model": DIGEST, "rows": DIGEST},
    "versions": {"taskslim": "0.1.0", "torch": "2.13.0"},
    "device": "cpu",
    "size": 187232,
    "sha256": DIGEST,
    "created_at": "2026-11-22T09:30:40Z",
    "expires_at": "2026-12-22T09:30:40Z",
    "url": f"http://127.0.0.1:8000/scores/{DIGEST}/safetensors",
}
OVERLAP = {
    "scores": [DIGEST, DIGEST],
    "ratio": 0.5,
    "kept": 23040,
    "shared": 14980,
    "jaccard": 0.4818,
    "by_chance": 0.3333,
    "parts": [{"stack": "decoder", "part": "ffn", "layer": None, "kept": 23040, "shared": 14980, "jaccard": 0.4818}],
    "layers": [{"stack": "decoder", "part": "ffn", "layer": 0, "kept": 768, "shared": 486, "jaccard": 0.4629}],
}
COMPARISON = {
    "model": SST2["model"],
    "task": "sst2",
    "metric": "accuracy",
    "judged_by": "labels",
    "latency": {"batch": 1, "tokens": 128, "device": "cpu"},
    "dense": {
        "parameters": 134515008,
        "bytes": 269060552,
        "latency_ms": 92.4,
        "examples": 51,
        "metric": {"value": 0.902, "low": 0.79, "high": 0.957},
        "frontier": ["parameters", "bytes", "latency_ms"],
    },
    "models": [
        {
            "job_id": EXAMPLE_JOB_ID,
            "artifact": "model",
            "ratio": 0.292,
            "units": ["ffn"],
            "layout": "uniform",
            "repair": "least_squares_layerwise",
            "recovery": None,
            "tags": {"team": "search"},
            "parameters": 111290688,
            "bytes": 222611880,
            "latency_ms": 78.1,
            "examples": 51,
            "metric": {"value": 0.882, "low": 0.766, "high": 0.945},
            "frontier": ["parameters", "bytes", "latency_ms"],
        }
    ],
}
METRICS = '# TYPE slim_jobs gauge\nslim_jobs{status="queued"} 3.0\n'
READY = {"ok": True, "checks": {"redis": {"ok": True}, "storage": {"ok": True}}, "warnings": []}
NOT_READY = {"ok": False, "checks": {"redis": {"ok": True}, "storage": {"ok": False, "reason": "no route to host"}}}


def _page(item: dict[str, Any]) -> dict[str, Any]:
    return {"data": [item], "next_cursor": None, "has_more": False}


def _message(status: str, **more: Any) -> dict[str, Any]:
    job = {"id": EXAMPLE_JOB_ID, "status": status, "attempt": 1, "tags": {"team": "search"}, "url": BASE}
    return {"type": f"job.{status}", "timestamp": "2026-11-22T09:31:10Z", "data": job | more}


JSON, TEXT, HTML, EVENTS = "application/json", "text/plain", "text/html", "text/event-stream"

# Operation id -> status -> media type -> example.
ANSWERS: dict[str, dict[str, dict[str, Any]]] = {
    "createJob": {"202": {JSON: QUEUED}, "200": {JSON: SUCCEEDED}},
    "listJobs": {"200": {JSON: _page(QUEUED)}},
    "getJob": {"200": {JSON: SUCCEEDED}},
    "cancelJob": {"202": {JSON: JOBS["running"] | {"status": "cancelling"}}, "200": {JSON: SUCCEEDED}},
    "compareJobs": {"200": {JSON: COMPARISON}},
    "listEvents": {"200": {JSON: _page(EVENT), EVENTS: STREAM}},
    "listArtifacts": {"200": {JSON: _page(ARTIFACT)}},
    "getReport": {"200": {JSON: REPORT, HTML: "<!doctype html>\n<title>Report</title>\n..."}},
    "createDataset": {"201": {JSON: DATASET}},
    "listDatasets": {"200": {JSON: _page(DATASET)}},
    "getDataset": {"200": {JSON: DATASET}},
    "listScores": {"200": {JSON: _page(SCORES)}},
    "getScores": {"200": {JSON: SCORES}},
    "getOverlap": {"200": {JSON: OVERLAP}},
    "listDeliveries": {"200": {JSON: _page(DELIVERY)}},
    "getWebhookSecret": {"200": {JSON: SECRET}},
    "rotateWebhookSecret": {"200": {JSON: SECRET}},
    "getCapabilities": {"200": {JSON: CAPABILITIES}},
    "createPlan": {"200": {JSON: PLAN}},
    "getHealth": {"200": {JSON: {"ok": True}}},
    "getReadiness": {"200": {JSON: READY}, "503": {JSON: NOT_READY}},
    "getVersion": {"200": {JSON: {"name": "taskslim", "version": "0.1.0"}}},
    "getMetrics": {"200": {TEXT: METRICS}},
}

# Operation id of a webhook -> body.
WEBHOOK_MESSAGES: dict[str, dict[str, Any]] = {
    "receiveJobRunning": _message("running"),
    "receiveJobSucceeded": _message("succeeded"),
    "receiveJobFailed": _message("failed", error=JOBS["failed"]["error"]),
    "receiveJobCancelled": _message("cancelled"),
}
