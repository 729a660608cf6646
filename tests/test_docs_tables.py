"""The tables of docs/ name every field, route, problem code and setting of the code once."""

import re
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.app import create_app
from service.cli.short_request import DEFAULT_RATIO
from service.contract.errors import TaskslimError
from service.contract.fields import groups
from service.contract.options import METRICS, TaskKind
from service.contract.request.job_request import JobRequest
from service.contract.request.method import OBJECTIVES
from service.models.families.runtimes.per_layer_limits import IN_BACK_END, IN_PLUGIN
from service.models.families.source_config import TEXT_PARTS
from service.models.families.table import FAMILIES
from service.models.quantisation.methods import METHODS
from service.settings import Settings
from tests.support.command_line import commands
from tests.support.documents import read, section, table

STATE = "~/.local/state/taskslim"
# Fields that stand in one row of the tables because they have the fields of another.
LIKE = {
    "task.evaluation.": "task.calibration.",
    "task.texts.": "task.calibration.",
    "task.general.": "task.",
    "task.synthesis.model.": "model.",
    "tasks.": "task.",
    "observe.": "task.",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def fields(schema: dict[str, Any], document: dict[str, Any], prefix: str = "") -> dict[str, set[str]]:
    """Dotted name -> values of its enumeration, for every field of an object schema."""
    found: dict[str, set[str]] = {}
    for name, field in schema["properties"].items():
        parts = [resolved(part, document) for part in alternatives(field)]
        inner = next((part for part in parts if "properties" in part and name != "latency_ms"), None)
        if inner is not None:
            found |= fields(inner, document, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = {value for part in parts for value in part.get("enum", ())}
    return found


def alternatives(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that a field may have, those of the entries of a list included."""
    for part in field.get("anyOf", [field]):
        yield from alternatives(part["items"]) if "items" in part else [part]


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def test_the_request_page_names_every_field_once_with_its_values(document: dict[str, Any]) -> None:
    page = read("docs/request.md")
    rows = table(section(page, "Common fields")) + table(section(page, "Expert fields"))
    every = fields(document["components"]["schemas"]["JobRequest"], document)
    own = {name: values for name, values in every.items() if not name.startswith(tuple(LIKE))}
    assert Counter(name for name, _ in rows) == Counter([*own, *(f"{name}*" for name in LIKE)])
    for name in every.keys() - own.keys():
        prefix = next(start for start in LIKE if name.startswith(start))
        shared = name.replace(prefix, LIKE[prefix], 1)
        shared = shared.replace(".evaluation.", ".calibration.").replace(".texts.", ".calibration.")
        shared = shared.replace("task.general.", "task.").replace("task.synthesis.model.", "model.")
        # general rows have the fields of a task's wording and those of its calibration rows side by side
        assert {shared, shared.replace("task.", "task.calibration.", 1)} & own.keys() or shared == "task.general", name
    for name, (_, meaning, *_) in rows:
        missing = {value for value in own.get(name, ()) if f"`{value}`" not in meaning}
        assert not missing, (name, missing)


def test_the_request_page_groups_the_fields_as_the_contract() -> None:
    group_of = groups(JobRequest)
    for title, group in (("Common fields", "common"), ("Expert fields", "expert")):
        for name, _ in table(section(read("docs/request.md"), title)):
            assert group_of[name.removesuffix(".*")] == group, name


def test_the_request_page_gives_the_defaults(document: dict[str, Any]) -> None:
    page = read("docs/request.md")
    for name, (shown, *_) in table(section(page, "Common fields")) + table(section(page, "Expert fields")):
        if not name.endswith("*") and shown != "*required*":
            default = default_of(JobRequest, name.split("."))
            values = default if isinstance(default, list) else [default]
            expected = [str(value).lower() for value in values if value not in (None, {}, [])]
            assert re.findall(r"`([^`]+)`", shown) == expected, name


def default_of(schema: type[BaseModel], names: list[str]) -> Any:
    """The default of a field of a nested model; None where there is none or it depends on others."""
    field = schema.model_fields[names[0]]
    if len(names) > 1:
        inner = next(part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_model(part))
        return default_of(inner, names[1:])
    return None if field.is_required() or field.default_factory else field.default


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_the_request_page_names_every_method_of_quantisation_once() -> None:
    named = [name for name, _ in table(section(read("docs/request.md"), "Quantised models"))]
    assert sorted(named) == sorted(METHODS)


def test_the_request_page_lists_every_kind_of_task_with_its_default_metric_and_objective() -> None:
    rows = table(section(read("docs/request.md"), "Rows"))
    assert [name for name, _ in rows] == [kind.value for kind in TaskKind]
    for kind, (_, cells) in zip(TaskKind, rows, strict=True):
        assert cells[-1] == f"`{METRICS[kind][0].value}`, `{OBJECTIVES[kind][0].value}`"


def test_the_api_page_names_every_route_once(document: dict[str, Any]) -> None:
    served = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    listed = [name for name, _ in table(section(read("docs/api.md"), "Routes"))]
    assert Counter(listed) == Counter([*served, "GET /"])


def test_the_api_page_names_every_problem_code_once_with_its_status() -> None:
    expected = {error.code: error.status for error in errors(TaskslimError)}
    expected |= {status.phrase.lower().replace(" ", "_"): status for status in HTTPStatus if status in (405, 415)}
    rows = table(section(read("docs/api.md"), "Errors"))
    assert Counter(code for code, _ in rows) == Counter(expected.keys())
    assert {code: int(status) for code, (status, *_) in rows} == expected


def errors(root: type[TaskslimError]) -> Iterator[type[TaskslimError]]:
    yield root
    for child in root.__subclasses__():
        yield from errors(child)


def test_the_page_of_the_command_line_names_every_command_once() -> None:
    listed = [name for name, _ in table(read("docs/cli.md").partition("\n## ")[0])]
    assert Counter(listed) == Counter(name for name, _ in commands())


def test_the_page_of_the_command_line_names_every_option_of_slim_once_with_its_default() -> None:
    rows = table(section(read("docs/cli.md"), "Slim a model"))
    [params] = [command.params for name, command in commands() if name == "taskslim slim"]
    assert [name for name, _ in rows] == [param.opts[0] if "--" in param.opts[0] else param.metavar for param in params]
    assert [default == "*required*" for _, (default, *_) in rows] == [param.required for param in params]
    assert dict(rows)["--ratio"][0] == str(DEFAULT_RATIO)


def test_the_page_of_the_families_lists_each_with_its_classes_units_and_runtimes() -> None:
    rows = table(read("docs/families.md").partition("\n## ")[0])
    assert [name for name, _ in rows] == list(FAMILIES)
    for name, (classes, units, runtimes) in rows:
        family = FAMILIES[name]
        assert re.findall(r"`(\w+)`", classes) == family.described.classes
        assert re.findall(r"`(\w+)`", units) == [unit.value for unit in family.units]
        assert runtimes == ", ".join(family.runtimes)


def test_the_page_of_the_families_lists_those_that_vllm_loads_with_layers_of_different_widths() -> None:
    rows = [row for row in table(section(read("docs/families.md"), "Layers of different widths")) if row[0] == "vllm"]
    assert [re.findall(r"`(\w+)`", families) for _, (families, _) in rows] == [[*IN_BACK_END], [*IN_PLUGIN]]


def test_the_page_of_the_families_lists_the_text_parts() -> None:
    parts = [(whole, name, part) for whole, rows in TEXT_PARTS.items() for name, part in rows.items()]
    rows = table(section(read("docs/families.md"), "Text parts of multimodal models"))
    assert rows == [(whole, [f"`{name}`", f"`{part.part}`"]) for whole, name, part in parts]
    for _, _, part in parts:
        assert FAMILIES[part.model_type].model_class == part.part


def test_the_operations_page_names_every_setting_once_with_its_default() -> None:
    rows = table(section(read("docs/operations.md"), "Settings"))
    assert Counter(name for name, _ in rows) == Counter(f"SLIM_{name.upper()}" for name in Settings.model_fields)
    plain = Settings(state=Path(STATE))
    for variable, (default, *_) in rows:
        value = getattr(plain, variable.removeprefix("SLIM_").lower())
        shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert default == (f"`{shown}`" if value or value is False else ""), variable


def test_the_glossary_has_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \|", section(read("docs/design.md"), "Glossary"), flags=re.MULTILINE)[2:]
    assert words == sorted(set(words), key=str.lower)
