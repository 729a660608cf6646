"""The OpenAPI document of the application."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.openapi.examples import PROBLEMS
from service.api.openapi.response_examples import ANSWERS, JSON, NEWS
from service.api.problems import MEDIA_TYPE
from service.infrastructure.version import package_version

DESCRIPTION = """\
Slims a multi-task language model for one task, on demand: post a model and a task, get back a smaller ordinary
Hugging Face checkpoint.

Attribution measures which neurons the task uses; the rest is cut out physically, the result is checked and stored.
Jobs are asynchronous: `POST /jobs` answers 202, `GET /jobs/{job_id}` and its event stream say how far the job is.

Errors are problem documents (RFC 9457) with a stable `code`. Unknown fields in a request are refused; clients must
tolerate new fields and new values of enumerations in answers. Times are RFC 3339 in UTC.
"""
TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel and delete jobs"},
    {"name": "artifacts", "description": "What a job leaves"},
    {"name": "datasets", "description": "Upload rows that tasks name as `dataset://` URIs"},
    {"name": "scores", "description": "What was measured and need not be measured again"},
    {"name": "webhooks", "description": "News of jobs, sent and signed"},
    {"name": "catalog", "description": "What this deployment can do"},
    {"name": "operations", "description": "For those who run the service"},
]
SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: `Authorization: Bearer slim_...`",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key"},
}
# {}: without any configured key the server, then on loopback only, asks for none.
ASKED: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"header": []}]
OPEN = frozenset({"getHealth", "getReadiness", "getVersion"})  # what an orchestrator asks without a key
# Status -> the problems that may come with it, by name in the document's components.
PROBLEM_EXAMPLES = {
    status: {
        name: {"$ref": f"#/components/examples/{name}"}
        for name, problem in PROBLEMS.items()
        if problem["status"] == status
    }
    for status in {problem["status"] for problem in PROBLEMS.values()}
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds until it is worth asking again", "schema": {"type": "integer"}}}


def describe(app: FastAPI) -> None:
    """Make the application serve `document` at /openapi.json."""
    app.openapi = lambda: app.openapi_schema or _remember(app)  # type: ignore[method-assign]


def _remember(app: FastAPI) -> dict[str, Any]:
    app.openapi_schema = document(app)
    return app.openapi_schema


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document: what FastAPI emits, with problems under their media type and optional security."""
    found = get_openapi(
        title="Taskslim",
        version=package_version(),
        summary="Task-specific slimming of language models",
        description=DESCRIPTION,
        routes=app.routes,
        webhooks=app.webhooks.routes,
        tags=TAGS,
        servers=[{"url": "/", "description": "The server that gives this document"}],
        contact={"name": "Taskslim", "url": "https://pypi.org/project/taskslim/"},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    for path in found["paths"].values():
        for operation in path.values():
            _finish(operation)
    for webhook in found["webhooks"].values():
        _finish_webhook(webhook["post"])
    for unused in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(unused, None)
    found["components"]["securitySchemes"] = SCHEMES
    found["components"]["examples"] = {
        name: {"summary": problem["title"], "value": problem} for name, problem in PROBLEMS.items()
    }
    return found


def _finish(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _without_null(parameter["schema"])
    operation["security"] = [] if operation["operationId"] in OPEN else ASKED
    answers = ANSWERS.get(operation["operationId"], {})
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        for media_type, example in answers.get(status, {}).items():
            if "examples" not in content[media_type]:
                content[media_type]["example"] = example
        if content.get(JSON, {}).get("schema", {}).get("$ref", "").endswith("/Problem"):
            content[MEDIA_TYPE] = content.pop(JSON) | {"examples": PROBLEM_EXAMPLES[int(status)]}
            response["headers"] = RETRY_AFTER if status in ("429", "503") else {}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which may be absent; a null is what the text of a URL or a header cannot hold."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    return {name: part for name, part in schema.items() if name != "anyOf"} | kinds[0] if len(kinds) == 1 else schema


def _finish_webhook(operation: dict[str, Any]) -> None:
    # What a receiver answers to a body that it cannot read is its own affair.
    operation["responses"].pop("422", None)
    operation["security"] = []
    operation["requestBody"]["content"][JSON]["example"] = NEWS[operation["operationId"]]
