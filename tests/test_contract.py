"""The OpenAPI document: the committed one is current, and it is consistent with its examples and the code."""

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from ulid import ULID

from service.api.app import create_app
from service.api.openapi.examples import FILES, PROBLEMS
from service.cli.openapi import DIRECTORY, files, stale
from service.contract.answers.catalog import Problem
from service.contract.answers.job import Job
from service.contract.errors import TaskslimError
from service.contract.fields import groups
from service.contract.ids import JOB_ID
from service.contract.request.job_request import JobRequest, Webhook, WebhookEvent
from service.contract.request.method import Method
from service.contract.request.output import Output
from service.contract.request.presets import resolve
from service.contract.request.target import LatencyBound, Target
from service.contract.request.task import DataSource, ModelSource, Task, TaskWording
from service.settings import Settings
from tests.support.documents import PATHS

ROOT = Path(__file__).parents[1]
SNAKE_CASE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
# Values of enumerations that a standard spells otherwise -> the standard.
NOT_SNAKE_CASE = {event.value: "Standard Webhooks 1.0.0: event types are dotted" for event in WebhookEvent}
# The models of a request, but for `Task`, whose own fields come after those of `TaskWording`.
COMMON_FIRST = (ModelSource, DataSource, TaskWording, Method, Target, LatencyBound, Output, Webhook, JobRequest)
MODELS: dict[str, type[BaseModel]] = {"request": JobRequest, "job": Job, "problem": Problem}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_committed_openapi_document_is_current() -> None:
    assert stale(ROOT / DIRECTORY, files()) == [], "run `make openapi`"


@pytest.mark.parametrize("name", FILES)
def test_example_file_is_valid_for_its_model_and_schema(name: str, document: dict[str, Any]) -> None:
    content = json.loads((ROOT / DIRECTORY / "examples" / f"{name}.json").read_text())
    model = MODELS[name.partition("-")[0]]
    model.model_validate(content)
    schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": document["components"]}
    Draft202012Validator(schema).validate(content)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("request-")])
def test_task_of_an_example_request_resolves(name: str) -> None:
    task = resolve(JobRequest.model_validate(FILES[name]).slimmed_for[0])
    assert task.template or task.messages


def test_code_of_an_example_problem_is_a_known_code() -> None:
    codes = {error.code for error in subclasses(TaskslimError)}
    for problem in PROBLEMS.values():
        assert problem["code"] in codes | {HTTPStatus(problem["status"]).phrase.lower().replace(" ", "_")}


def subclasses(root: type[TaskslimError]) -> Iterator[type[TaskslimError]]:
    yield root
    for child in root.__subclasses__():
        yield from subclasses(child)


@pytest.mark.parametrize(
    "place", [*PATHS, "openapi/openapi.json", *(f"openapi/examples/{name}.json" for name in FILES)]
)
def test_ids_in_documents_and_examples_are_valid(place: str) -> None:
    for shown in re.findall(r"\b[0-9A-Z]{26}\b|\b01[0-9A-Z]{16,}\b", (ROOT / place).read_text()):
        assert JOB_ID.fullmatch(shown), shown
        assert str(ULID.from_str(shown)) == shown


def test_id_parameters_have_examples(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] in ("job_id", "dataset_id"):
                assert [str(ULID.from_str(id_)) for id_ in parameter["schema"]["examples"]], name


def test_operations_have_a_description_and_a_unique_id(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    ids = [operation["operationId"] for operation in found.values()]
    assert len(ids) == len(set(ids))
    for name, operation in found.items():
        assert operation["operationId"].isidentifier(), name
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert "security" in operation, name


def test_error_responses_are_declared_as_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and (name, status) != ("GET /readyz", "503"):
                content = response["content"]
                assert content.keys() == {"application/problem+json"}, (name, status)
                assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_bodies_of_the_document_have_examples(document: dict[str, Any]) -> None:
    """The examples are in `service.api.openapi`; binary bodies need none."""
    for name, media in contents(document):
        if media.get("schema", {}).get("format") != "binary":
            assert examples(media, document), f"{name} needs a row in service/api/openapi/response_examples.py"


def test_examples_of_the_document_are_valid_for_their_schema(document: dict[str, Any]) -> None:
    for name, media in contents(document):
        schema = media["schema"] | {"components": document["components"]}
        for example in examples(media, document):
            errors = [error.message for error in Draft202012Validator(schema).iter_errors(example)]
            assert not errors, name


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request and response body of the document, webhooks included, with a name."""
    webhooks = ((name, item["post"]) for name, item in document["webhooks"].items())
    for name, operation in [*operations(document), *webhooks]:
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {kind}", media
        for status, response in operation["responses"].items():
            for kind, media in response.get("content", {}).items():
                yield f"{name} {status} {kind}", media


def examples(media: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """The values of the examples of a body, including references to shared ones."""
    named = [
        document["components"]["examples"][example["$ref"].rpartition("/")[2]] if "$ref" in example else example
        for example in media.get("examples", {}).values()
    ]
    return [example["value"] for example in named] + ([media["example"]] if "example" in media else [])


def enumerated(schema: Any) -> Iterator[str]:
    """Every value of an enumeration in the document."""
    if isinstance(schema, dict):
        listed = schema.get("enum", [])
        yield from (value for value in [*listed, schema.get("const")] if isinstance(value, str))
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from enumerated(part)


def test_enum_values_are_spelled_in_snake_case(document: dict[str, Any]) -> None:
    found = set(enumerated(document))
    assert {"per_layer", "succeeded", "head_dims"} <= found
    assert {value for value in found if not SNAKE_CASE.fullmatch(value)} == NOT_SNAKE_CASE.keys()


def test_document_marks_the_expert_fields_of_a_request(document: dict[str, Any]) -> None:
    for path, group in groups(JobRequest).items():
        marks = marks_on_the_way(path, document["components"]["schemas"])
        assert ("expert" in marks) is (group == "expert"), path


def marks_on_the_way(path: str, schemas: dict[str, Any]) -> list[str]:
    """The `x-group` of a field of a request and of the fields that contain it."""
    schema, marks = schemas["JobRequest"], []
    for name in path.split("."):
        field = schema["properties"][name]
        marks += [field["x-group"]] if "x-group" in field else []
        references = re.findall(r"#/components/schemas/(\w+)", json.dumps(field))
        schema = schemas[references[0]] if references else field
    return marks


def test_common_fields_of_a_request_come_first() -> None:
    for model in COMMON_FIRST:
        is_expert = [group == "expert" for path, group in groups(model).items() if "." not in path]
        assert is_expert == sorted(is_expert), model.__name__


def test_required_fields_of_a_request_are_common() -> None:
    for model in (
        ModelSource,
        DataSource,
        TaskWording,
        Task,
        Method,
        Target,
        LatencyBound,
        Output,
        Webhook,
        JobRequest,
    ):
        for name, field in model.model_fields.items():
            assert not field.is_required() or groups(model)[name] == "common", (model.__name__, name)


def test_links_of_the_document_refer_to_operations(document: dict[str, Any]) -> None:
    ids = {operation["operationId"] for _, operation in operations(document)}
    links = {
        link["operationId"]
        for _, operation in operations(document)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    }
    assert {"getJob", "listEvents", "cancelJob", "getDataset"} <= links <= ids
