"""The options of the form in a real browser: recovery, rows beside those of the task, formats and quantised copies."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.contract.request.job_request import JobRequest
from service.jobs.store import JobStore
from tests.support import checkpoints
from tests.support.browser import Tab
from tests.support.status_page import fill_form, new_job, set_field, shown_request
from tests.support.tiny_models import causal


def choose(tab: Tab, name: str, *values: str) -> None:
    """Click on the boxes of a field."""
    for value in values:
        tab.run(f'document.querySelector(\'[name="{name}"][value="{value}"]\').click()')


def is_shown(tab: Tab, name: str) -> bool:
    """Whether a field is shown once the sections around it are open."""
    tab.run("document.querySelectorAll('details.expert').forEach((section) => (section.open = true))")
    return bool(tab.run(f"document.querySelector('[name=\"{name}\"]').offsetHeight > 0"))


def test_form_asks_for_a_recovery(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    assert not is_shown(tab, "recovery.rank")
    assert "recovery" not in shown_request(tab)
    set_field(tab, "recovery.method", "lora")
    assert is_shown(tab, "recovery.rank")
    assert shown_request(tab)["recovery"] == {"method": "lora"}
    fields = {"seconds": 60, "rank": 4, "learning_rate": 0.0002, "epochs": 2, "steps": 9, "batch_size": 8, "rows": 32}
    for name, value in fields.items():
        set_field(tab, f"recovery.{name}", str(value))
    set_field(tab, "recovery.stages", "rationale,answer")
    set_field(tab, "task.synthesis", "rationales")
    assert not is_shown(tab, "task.synthesis.rows")
    request = shown_request(tab)
    assert request["recovery"] == {"method": "lora", "stages": ["rationale", "answer"]} | fields
    assert request["task"]["synthesis"] == {"rows": 0, "rationales": True}
    assert JobRequest.model_validate(request).recovery is not None


def test_form_asks_for_general_and_written_rows(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "task.general.uri", "s3://bucket/texts.jsonl")
    set_field(tab, "method.general_weight", "0.3")
    set_field(tab, "task.synthesis", "rows")
    assert is_shown(tab, "task.synthesis.model.uri")
    request = shown_request(tab)
    assert request["task"]["general"] == {"uri": "s3://bucket/texts.jsonl"}
    assert request["task"]["synthesis"] == {"rows": 64}
    assert request["method"]["general_weight"] == 0.3
    set_field(tab, "task.general.preset", "imdb")
    set_field(tab, "task.general.limit", "100")
    set_field(tab, "task.synthesis.model.uri", "hf://owner/writer")
    request = shown_request(tab)
    assert request["task"]["general"] == {"uri": "s3://bucket/texts.jsonl", "preset": "imdb", "limit": 100}
    assert request["task"]["synthesis"] == {"rows": 64, "model": {"uri": "hf://owner/writer"}}
    JobRequest.model_validate(request)
    set_field(tab, "task.preset", "*")
    assert not is_shown(tab, "task.general.uri")
    assert "general_weight" not in shown_request(tab)["method"]


def test_form_asks_for_formats_and_copies(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    assert not is_shown(tab, "output.gguf_types")
    assert shown_request(tab)["output"] == {"layout": "uniform"}
    choose(tab, "output.formats", "gguf")
    choose(tab, "output.gguf_types", "q4_k_m")
    choose(tab, "output.quantise", "w8a8", "w4a16")
    set_field(tab, "output.uri", "s3://bucket/models/reviews")
    set_field(tab, "method.shards", "4")
    request = shown_request(tab)
    assert request["output"] == {
        "layout": "uniform",
        "uri": "s3://bucket/models/reviews",
        "quantise": ["w8a8", "w4a16"],
        "formats": ["safetensors", "gguf"],
        "gguf_types": ["q8_0", "q4_k_m"],
    }
    assert request["method"]["shards"] == 4
    JobRequest.model_validate(request)
    choose(tab, "output.formats", "safetensors", "gguf")
    assert shown_request(tab)["output"]["formats"] == []  # which the API refuses


def test_refusals_of_a_plan_are_shown_at_their_fields(
    page: str, tab: Tab, body: dict[str, Any], tmp_path: Path
) -> None:
    checkpoints.save(tmp_path / "llama", causal("llama", hidden_size=64, intermediate_size=256))
    tab.open(f"{page}#/new")
    fill_form(tab, body | {"model": {"uri": (tmp_path / "llama").as_uri()}})

    def error_at(name: str, words: str) -> None:
        error = f"document.getElementById('field-{name}-error')"
        tab.wait_for(f"{error}.checkVisibility() && {error}.innerText.includes({json.dumps(words)})")

    choose(tab, "output.quantise", "w4a16")
    set_field(tab, "output.round_to", "8")
    error_at("output.quantise", "send an `output.round_to` of 32")
    set_field(tab, "output.round_to", "32")
    tab.wait_for("document.querySelector('.precisions')?.innerText.includes('w4a16 possible, in groups of 32 weights')")
    tab.run("document.querySelector('.memory').open = true")
    table = tab.run("document.querySelector('.memory table').innerText")
    assert "8 GiB\t1 pass\t" in table
    assert "141 GiB" in table
    set_field(tab, "method.general_weight", "0.5")
    error_at("method.general_weight", "give `task.general`")  # an error of the whole request, which names the field
    set_field(tab, "method.general_weight", "0")
    set_field(tab, "recovery.method", "lora")
    set_field(tab, "recovery.label_weight", "0.5")
    error_at("recovery.label_weight", "has an effect only with the method `distillation`")
    choose(tab, "output.formats", "safetensors")
    error_at("output.formats", "at least 1 item")


TASK: dict[str, Any] = {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}}
TEXTS = {"uri": "file:///texts.jsonl", "limit": 50}
NEWS = {"template": "{text}:", "labels": {"a": "b", "c": "d"}, "kind": "classification", "uri": "file:///news.jsonl"}
CARRIED: dict[str, dict[str, Any]] = {
    "training": {
        "task": TASK | {"synthesis": {"rationales": True, "seed": 3, "model": {"uri": "hf://a/b", "revision": "v1"}}},
        "recovery": {"stages": ["rationale", "answer"], "rank": 4},
    },
    "files": {
        "task": TASK | {"synthesis": {"rows": 9}},
        "method": {"repair": "none"},
        "output": {
            "formats": ["indices", "gguf"],
            "gguf_types": ["f16"],
            "quantise": ["int8"],
            "uri": "hf://owner/name",
        },
        "recovery": None,
    },
    "general": {"task": TASK | {"general": TEXTS}, "method": {"general_weight": 0.2}, "recovery": {"method": "lora"}},
    "wording": {"task": TASK | {"general": NEWS}, "method": {"shards": 2}},
}


@pytest.mark.parametrize("case", CARRIED)
def test_form_shows_the_options_of_a_job(page: str, tab: Tab, job_store: JobStore, case: str) -> None:
    job = new_job(job_store, **CARRIED[case])
    tab.open(f"{page}#/new?from={job.id}")
    tab.wait_for("document.querySelector('form.request')")
    assert JobRequest.model_validate(shown_request(tab)) == job.request
    for name in ("recovery.method", "task.general.uri", "task.synthesis"):
        set_field(tab, name, "")
    without = shown_request(tab)
    assert "recovery" not in without
    assert without["task"].keys() == TASK.keys()


def test_form_replaces_the_wording_of_general_rows(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store, **CARRIED["wording"])
    tab.open(f"{page}#/new?from={job.id}")
    tab.wait_for("document.querySelector('form.request')")
    set_field(tab, "task.general.preset", "imdb")
    assert shown_request(tab)["task"]["general"] == {"uri": NEWS["uri"], "preset": "imdb"}
