"""Tasks: presets are a contract, and what contradicts itself is refused with the field to change."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import InvalidLabels, InvalidTemplate, TaskslimError, UnknownPreset
from service.contract.options import TaskKind
from service.contract.presets import PRESETS, resolve, template_fields
from service.contract.task import Task

ROWS = {"uri": "file:///rows.jsonl"}
LABELS = {"0": "no", "1": "yes"}
SHARED = Path(__file__).parents[4] / "shared" / "data" / "templates.json"


def task(**fields: Any) -> Task:
    return Task.model_validate({"calibration": ROWS, **fields})


@pytest.mark.skipif(not SHARED.exists(), reason="the trained adapter's templates lie outside the repository")
def test_presets_are_the_strings_that_the_adapter_was_trained_on() -> None:
    trained = json.loads(SHARED.read_text())
    assert {
        name: {"template": preset.template, "labels": preset.labels, "max_words": preset.max_words}
        for name, preset in PRESETS.items()
    } == trained


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_to_a_whole_task(name: str) -> None:
    resolved = resolve(task(preset=name))
    assert resolved.kind is TaskKind.classification
    assert resolved.template is not None
    assert template_fields(resolved.template) <= {"text", "text_b"}
    assert resolved.labels == PRESETS[name].labels
    assert resolved.max_words == PRESETS[name].max_words


def test_a_task_s_own_fields_win_over_its_preset() -> None:
    resolved = resolve(task(preset="sst2", labels=LABELS, max_words=5, label_prefix="", special_tokens=False))
    assert (resolved.labels, resolved.max_words, resolved.label_prefix, resolved.special_tokens) == (
        LABELS,
        5,
        "",
        False,
    )
    assert resolved.template == PRESETS["sst2"].template


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(task(preset="mnli"))
    assert resolve(Task.model_validate_json(once.model_dump_json())) == once


def test_a_generation_task_takes_no_labels() -> None:
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
        ({"template": "{text", "labels": LABELS}, InvalidTemplate, "cannot be read"),
        ({"template": "{}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{0}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text.__class__}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text!r}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text:{width}}", "labels": LABELS}, InvalidTemplate, "plain"),
        ({"template": "{text} {label}", "labels": LABELS}, InvalidTemplate, "answer"),
        ({"template": "{text} {target}", "kind": "generation"}, InvalidTemplate, "answer"),
        ({"template": "{text}", "labels": {"a": "yes", "b": "yes"}}, InvalidLabels, "same word"),
        ({"template": "{text}", "labels": {"a": "yes", "b": " yes"}}, InvalidLabels, "same word"),
        ({"template": "{text}", "labels": {"a": "yes", "b": " "}}, InvalidLabels, "empty"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(
    fields: dict[str, Any], error: type[TaskslimError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        resolve(task(**fields))
    assert str(caught.value.param).startswith("task.")


def test_doubled_braces_are_literal() -> None:
    assert template_fields("{{json}} {text}") == {"text"}
