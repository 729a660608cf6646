"""Example requests, jobs and problems, for the OpenAPI document and openapi/examples/. Their figures are made up."""

from typing import Any

EXAMPLE_JOB_ID = "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"
BASE = f"http://127.0.0.1:8000/jobs/{EXAMPLE_JOB_ID}"

SST2 = {
    "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
    "task": {"preset": "sst2", "calibration": {"uri": "s3://datasets/sst2/train.jsonl", "limit": 256}},
    "target": {"ratio": 0.3},
    "tags": {"team": "search"},
}
INLINE: dict[str, Any] = {
    "model": {"uri": "file:///models/smollm2-135m"},
    "task": {
        "template": "Ticket: {text}\nIs it about billing or about delivery?\nAnswer:",
        "labels": {"billing": "billing", "delivery": "delivery"},
        "calibration": {
            "rows": [
                {"text": "I was charged twice this month.", "label": "billing"},
                {"text": "The parcel never came.", "label": "delivery"},
                {"text": "Please send the invoice again.", "label": "billing"},
                {"text": "Where is my order?", "label": "delivery"},
            ]
        },
        "evaluation": {
            "rows": [
                {"text": "Your driver left it at the wrong door.", "label": "delivery"},
                {"text": "The refund has not arrived on my card.", "label": "billing"},
            ]
        },
    },
    "target": {"ratio": 0.2},
    "output": {"round_to": 32},
}
GENERATION = {
    "model": {"uri": "s3://models/flan-t5-small", "adapter_uri": "s3://models/flan-t5-small-titles"},
    "task": {
        "kind": "generation",
        "template": "Write a title: {text}",
        "max_words": 120,
        "calibration": {"uri": "s3://datasets/titles/train.jsonl", "limit": 200, "seed": 7},
        "evaluation": {"uri": "s3://datasets/titles/test.jsonl", "limit": 200},
    },
    "method": {"criterion": "attribution", "objective": "log_probability"},
    "target": {"ratio": 0.4},
    "deadline_seconds": 7200,
}
CHAT = {
    "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
    "task": {
        "kind": "generation",
        "messages": "messages",
        "metric": "token_f1",
        "calibration": {"uri": "s3://datasets/support-chats/train.jsonl", "limit": 200},
        "evaluation": {"uri": "s3://datasets/support-chats/test.jsonl", "limit": 200},
    },
    "target": {"ratio": 0.2},
}
CLASSIFIER = {
    "model": {"uri": "gs://models/roberta-topics"},
    "task": {
        "template": "{text}",
        "labels": {"0": "World", "1": "Sports", "2": "Business", "3": "Technology"},
        "calibration": {"uri": "gs://datasets/topics/train.parquet", "limit": 400},
    },
    "target": {"ratio": 0.5},
}

UNSUPERVISED = {
    "model": {"uri": "s3://models/qwen3-reviews"},
    "task": {
        "preset": "sst2",
        "supervision": "none",
        "confidence": 0.8,
        "calibration": {"uri": "s3://datasets/reviews/unlabelled.jsonl", "limit": 512},
        "evaluation": {"uri": "s3://datasets/sst2/test.jsonl"},
        "evaluations": {"imdb": {"uri": "s3://datasets/imdb/test.jsonl", "limit": 400}},
    },
    "target": {"ratio": 0.3},
}
KEEPING = SST2 | {
    "method": {"scope": "global"},
    "target": {"keep_metric": 0.98, "bytes": 240000000},
    "output": {"layout": "per_layer", "round_to": 1},
}
RECOVERED = SST2 | {"target": {"ratio": 0.7}, "recovery": {"seconds": 600}}
SWEEP = SST2 | {"target": {"sweep": [0.1, 0.2, 0.3, 0.4, 0.5], "artifacts": [0.2, 0.4]}}

INDICES = {
    "model": {"uri": "s3://models/flan-t5-base"},
    "task": {
        "preset": "trec",
        "calibration": {"uri": "s3://datasets/trec/train.jsonl", "limit": 64, "draw": "balanced"},
        "evaluation": {"uri": "s3://datasets/trec/test.jsonl"},
    },
    "method": {"units": ["ffn", "heads", "head_dims"], "scope": "global", "repair": "none", "controls": True},
    "target": {"ratio": 0.3},
    "output": {"formats": ["indices"]},
}

REQUESTS: dict[str, Any] = {
    "sst2": {"summary": "A preset, with rows in object storage", "value": SST2},
    "inline": {"summary": "A task without a preset, with inline rows", "value": INLINE},
    "generation": {"summary": "A generation task on a model with an adapter", "value": GENERATION},
    "chat": {"summary": "Conversations, asked by the chat template of the model", "value": CHAT},
    "unsupervised": {"summary": "Calibration rows without labels, evaluated on two domains", "value": UNSUPERVISED},
    "keep-metric": {
        "summary": "The smallest model that keeps 98 % of the accuracy, with a maximum size",
        "value": KEEPING,
    },
    "recovery": {"summary": "A small model that is trained after the cut", "value": RECOVERED},
    "sweep": {"summary": "A sweep over five ratios, with two checkpoints", "value": SWEEP},
    "indices": {"summary": "Several kinds of units, with controls, stored as indices", "value": INDICES},
    "classifier": {"summary": "A model with a classification head", "value": CLASSIFIER},
}

RECEIVERS: dict[str, Any] = {"receiver": {"value": {"url": "https://ci.example.com/hooks/taskslim"}}}

QUEUED: dict[str, Any] = {
    "id": EXAMPLE_JOB_ID,
    "object": "job",
    "status": "queued",
    "stage": None,
    "progress": {"fraction": 0.0, "done": None, "total": None, "unit": None, "eta_seconds": None},
    "attempt": 0,
    "attempts": [],
    "created_at": "2026-11-22T09:30:00Z",
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
    "request": SST2,
    "tags": {"team": "search"},
    "result": None,
    "error": None,
    "links": {
        "self": BASE,
        "events": f"{BASE}/events",
        "deliveries": f"{BASE}/deliveries",
        "artifacts": f"{BASE}/artifacts",
        "report": f"{BASE}/report",
        "cancel": f"{BASE}/cancel",
    },
}
RUNNING = QUEUED | {
    "status": "running",
    "stage": "attribute",
    "progress": {"fraction": 0.41, "done": 84, "total": 205, "unit": "examples", "eta_seconds": 12.5},
    "attempt": 1,
    "attempts": [{"number": 1, "started_at": "2026-11-22T09:30:02Z", "finished_at": None, "outcome": None}],
    "started_at": "2026-11-22T09:30:02Z",
}
SUCCEEDED = RUNNING | {
    "status": "succeeded",
    "stage": "upload",
    "progress": {"fraction": 1.0, "done": None, "total": None, "unit": None, "eta_seconds": 0.0},
    "attempts": [
        {
            "number": 1,
            "started_at": "2026-11-22T09:30:02Z",
            "finished_at": "2026-11-22T09:31:10Z",
            "outcome": "succeeded",
        }
    ],
    "finished_at": "2026-11-22T09:31:10Z",
    "expires_at": "2026-12-22T09:31:10Z",
    "result": {
        "metrics": {
            "dense": {
                "examples": 51,
                "metric": "accuracy",
                "value": {"value": 0.902, "low": 0.79, "high": 0.957},
                "raw": {"value": 0.902, "low": 0.79, "high": 0.957},
                "constant": 0.51,
                "majority": 0.51,
                "log_likelihood": -0.31,
            },
            "slim": {
                "examples": 51,
                "metric": "accuracy",
                "value": {"value": 0.882, "low": 0.766, "high": 0.945},
                "raw": {"value": 0.863, "low": 0.743, "high": 0.932},
                "constant": 0.51,
                "majority": 0.51,
                "log_likelihood": -0.38,
            },
        },
        "parameters": {"dense": 134515008, "slim": 111290688},
        "bytes": {"dense": 269060552, "slim": 222611880},
        "latency_ms": {
            "dense": 92.4,
            "slim": 78.1,
            "dense_quartiles": {"first": 91.6, "third": 93.8},
            "slim_quartiles": {"first": 77.5, "third": 79.2},
            "batch": 1,
            "tokens": 128,
            "runs": 20,
            "device": "cpu",
        },
        "widths": [{"stack": "decoder", "unit": "ffn", "dense": 1536, "slim": 1088}],
        "ratio": 0.292,
        "verified": {
            "loader": "LlamaForCausalLM",
            "max_abs_logit_difference": 0.0,
            "tolerance": 0.0001,
            "dtype": "float32",
        },
        "scores": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "scores_reused": False,
        "evaluation_reused": False,
    },
}
FAILED = RUNNING | {
    "status": "failed",
    "stage": "fetch",
    "progress": {"fraction": 0.01, "done": None, "total": None, "unit": None, "eta_seconds": None},
    "attempts": [
        {
            "number": 1,
            "started_at": "2026-11-22T09:30:02Z",
            "finished_at": "2026-11-22T09:30:04Z",
            "outcome": "failed",
        }
    ],
    "finished_at": "2026-11-22T09:30:04Z",
    "expires_at": "2026-12-22T09:30:04Z",
    "error": {
        "code": "unknown_label",
        "message": "line 17 has the label 'neutral', which `task.labels` does not name",
        "param": "task.calibration",
    },
}

JOBS: dict[str, Any] = {"queued": QUEUED, "running": RUNNING, "succeeded": SUCCEEDED, "failed": FAILED}


def _problem(status: int, code: str, title: str, detail: str, param: str | None = None) -> dict[str, Any]:
    problem: dict[str, Any] = {
        "type": f"urn:taskslim:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "/jobs",
        "code": code,
    }
    return problem | ({"errors": [{"param": param, "message": detail}]} if param else {})


PROBLEMS: dict[str, Any] = {
    "invalid_request": _problem(
        422, "invalid_request", "Invalid request", "Extra inputs are not permitted", "target.percent"
    ),
    "invalid_labels": _problem(
        422,
        "invalid_labels",
        "Invalid labels",
        "the labels 'good' and 'great' have the same answer word 'yes': give different words",
        "task.labels",
    ),
    "unsupported_family": _problem(
        422,
        "unsupported_family",
        "Unsupported family",
        "the model_type of file:///models/mamba, 'mamba', is not supported; these are: llama, mistral, qwen2",
        "model.uri",
    ),
    "not_found": _problem(404, "not_found", "Not found", f"there is no job '{EXAMPLE_JOB_ID}'"),
    "body_too_large": _problem(
        413,
        "body_too_large",
        "Body too large",
        "the body is larger than 16777216 bytes: store the rows and send their URI",
    ),
    "unauthorized": _problem(401, "unauthorized", "Unauthorized", "the API key is unknown, revoked or expired"),
    "forbidden": _problem(
        403, "forbidden", "Forbidden", "this key lacks the scope `jobs:write`; create one with `--scope jobs:write`"
    ),
    "conflict": _problem(409, "conflict", "Conflict", "the job is running; cancel it first"),
    "unsupported_media_type": _problem(
        415,
        "unsupported_media_type",
        "Unsupported Media Type",
        "Content-Type is not a format of rows: send one of application/jsonl, text/csv",
    ),
    "range_not_satisfiable": _problem(
        416, "range_not_satisfiable", "Range not satisfiable", "the range begins after the end: the file has 818 bytes"
    ),
    "too_many_requests": _problem(
        429, "too_many_requests", "Too many requests", "600 requests in 60 s are allowed; send the next in 12 s"
    ),
    "internal_error": _problem(
        500,
        "internal_error",
        "Internal error",
        "an error in the service, not in the request: report it with the request id 01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    ),
    "queue_unavailable": _problem(
        503, "queue_unavailable", "Queue unavailable", "Redis does not answer: send the request again later"
    ),
}

FILES: dict[str, Any] = (
    {f"request-{name}": example["value"] for name, example in REQUESTS.items()}
    | {f"job-{name}": job for name, job in JOBS.items()}
    | {f"problem-{name.replace('_', '-')}": problem for name, problem in PROBLEMS.items()}
)
