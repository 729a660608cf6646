"""The OpenAPI document of the application."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.openapi.examples import PROBLEMS
from service.api.openapi.response_examples import ANSWERS, JSON, WEBHOOK_MESSAGES
from service.api.problems import MEDIA_TYPE
from service.infrastructure.version import package_version

DESCRIPTION = """\
Slims a multi-task language model for one task, on demand: send a model and a task, and get a smaller Hugging Face
checkpoint.

Attribution scores the neurons of the model by their importance for the task. Those with the lowest scores are removed
from the weights, and the checkpoint is verified and stored. Jobs are asynchronous: `POST /jobs` responds with 202, and
`GET /jobs/{job_id}` and its event stream show the progress.

Fields of a request that are marked `x-group: expert` have a default that suits most jobs. Unknown fields of a request
are refused. Clients must accept new fields and new values of enumerations in responses. Errors are problem
documents (RFC 9457) with a stable `code`. Times are RFC 3339 in UTC.
"""
TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel and delete jobs"},
    {"name": "artifacts", "description": "List and download the files of a job, read its report"},
    {"name": "datasets", "description": "Upload rows, which tasks refer to by `dataset://` URIs"},
    {"name": "scores", "description": "Scores that jobs have stored and later jobs use again"},
    {"name": "webhooks", "description": "Signed messages about changes of jobs"},
    {"name": "catalog", "description": "What the deployment supports"},
    {"name": "operations", "description": "For operators of the service"},
]
SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: `Authorization: Bearer slim_...`",
    },
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key in a header of its own",
    },
}
# {}: without configured keys the server listens on loopback only and needs no key.
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"header": []}]
WITHOUT_KEY = frozenset({"getHealth", "getReadiness", "getVersion"})  # for orchestrators, without a key
# Status -> the example problems with that status, by name in the components of the document.
PROBLEM_EXAMPLES = {
    status: {
        name: {"$ref": f"#/components/examples/{name}"}
        for name, problem in PROBLEMS.items()
        if problem["status"] == status
    }
    for status in {problem["status"] for problem in PROBLEMS.values()}
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds after which to send the request again", "schema": {"type": "integer"}}
}


def describe(app: FastAPI) -> None:
    """Make the application serve `document` at /openapi.json."""
    app.openapi = lambda: app.openapi_schema or _remember(app)  # type: ignore[method-assign]


def _remember(app: FastAPI) -> dict[str, Any]:
    app.openapi_schema = document(app)
    return app.openapi_schema


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of FastAPI, with the media type of problems, optional security and examples."""
    found = get_openapi(
        title="Taskslim",
        version=package_version(),
        summary="Task-specific slimming of language models",
        description=DESCRIPTION,
        routes=app.routes,
        webhooks=app.webhooks.routes,
        tags=TAGS,
        servers=[{"url": "/", "description": "The server of this document"}],
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
    operation["security"] = [] if operation["operationId"] in WITHOUT_KEY else SECURITY
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
    """The schema of an optional parameter without null, which a URL or a header cannot contain."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    return {name: part for name, part in schema.items() if name != "anyOf"} | kinds[0] if len(kinds) == 1 else schema


def _finish_webhook(operation: dict[str, Any]) -> None:
    # FastAPI adds 422 for a body that cannot be read; here the receiver decides.
    operation["responses"].pop("422", None)
    operation["security"] = []
    operation["requestBody"]["content"][JSON]["example"] = WEBHOOK_MESSAGES[operation["operationId"]]
