"""Presets, and the completion of a task by its preset."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import InvalidLabels, InvalidRequest, InvalidTemplate, TaskslimError, UnknownPreset
from service.contract.options import TaskKind
from service.contract.request.presets import PRESETS, resolve, template_fields
from service.contract.request.task import Task

ROWS = {"uri": "file:///rows.jsonl"}
LABELS = {"0": "no", "1": "yes"}
SHARED = Path(__file__).parents[4] / "shared" / "data" / "templates.json"


def task(**fields: Any) -> Task:
    return Task.model_validate({"calibration": ROWS, **fields})


@pytest.mark.skipif(not SHARED.exists(), reason="the trained adapter's templates are not part of the repository")
def test_presets_equal_the_templates_of_the_trained_adapter() -> None:
    trained = json.loads(SHARED.read_text())
    assert {
        name: {"template": preset.template, "labels": preset.labels, "max_words": preset.max_words}
        for name, preset in PRESETS.items()
    } == trained


@pytest.mark.parametrize("name", PRESETS)
def test_preset_resolves_to_a_complete_task(name: str) -> None:
    resolved = resolve(task(preset=name))
    assert resolved.kind is TaskKind.classification
    assert resolved.template is not None
    assert template_fields(resolved.template) <= {"text", "text_b"}
    assert resolved.labels == PRESETS[name].labels
    assert resolved.max_words == PRESETS[name].max_words


def test_fields_of_a_task_override_its_preset() -> None:
    resolved = resolve(task(preset="sst2", labels=LABELS, max_words=5, label_prefix="", special_tokens=False))
    assert (resolved.labels, resolved.max_words, resolved.label_prefix, resolved.special_tokens) == (
        LABELS,
        5,
        "",
        False,
    )
    assert resolved.template == PRESETS["sst2"].template


def test_resolving_a_resolved_task_changes_nothing() -> None:
    once = resolve(task(preset="mnli"))
    assert resolve(Task.model_validate_json(once.model_dump_json())) == once


def test_generation_task_takes_no_labels() -> None:
    assert resolve(task(kind="generation", template="{text}")).labels is None
    with pytest.raises(InvalidLabels, match="generation"):
        resolve(task(kind="generation", template="{text}", labels=LABELS))


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({}, InvalidTemplate, "preset"),
        ({"preset": "sst3"}, UnknownPreset, "sst2"),
        ({"template": "{text}"}, InvalidLabels, "labels"),
        ({"template": "no column", "labels": LABELS}, InvalidTemplate, "column"),
        ({"template": "{text", "labels": LABELS}, InvalidTemplate, "wrong braces"),
        ({"template": "{}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{0}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text.__class__}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text!r}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text:{width}}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text} {label}", "labels": LABELS}, InvalidTemplate, "answer"),
        ({"template": "{text} {target}", "kind": "generation"}, InvalidTemplate, "answer"),
        ({"template": "{text}", "labels": {"a": "yes", "b": "yes"}}, InvalidLabels, "same answer word"),
        ({"template": "{text}", "labels": {"a": "yes", "b": " yes"}}, InvalidLabels, "same answer word"),
        ({"template": "{text}", "labels": {"a": "yes", "b": " "}}, InvalidLabels, "empty"),
        ({"template": "{text}", "labels": LABELS, "metric": "rouge_l"}, InvalidRequest, "give one of accuracy, bal"),
        ({"preset": "cola", "metric": "token_probability"}, InvalidRequest, "does not judge a classification task"),
        ({"template": "{text}", "kind": "generation", "metric": "matthews"}, InvalidRequest, "exact_match, token_f1"),
    ],
)
def test_invalid_task_is_refused_with_the_field_to_change(
    fields: dict[str, Any], error: type[TaskslimError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        resolve(task(**fields))
    assert str(caught.value.param).startswith("task.")


def test_metric_is_by_default_that_of_the_kind() -> None:
    assert resolve(task(preset="cola")).metric == "accuracy"
    assert resolve(task(preset="cola", metric="matthews")).metric == "matthews"
    assert resolve(task(kind="generation", template="{text}")).metric == "exact_match"
    assert resolve(task(kind="regression", template="{text}")).metric == "pearson"


def test_doubled_braces_in_a_template_are_literal() -> None:
    assert template_fields("{{json}} {text}") == {"text"}
