"""Jobs with general rows: what the model can do besides its task, measured before and after."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.contract.answers.report import Report
from service.contract.answers.result import MetricsPair
from service.contract.errors import TaskslimError
from service.contract.request.job_request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.tiny_models import WITH_HEAD

METHOD = {"criterion": "attribution", "repair": "none"}


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": " ".join(WORDS[row * step % 7] for step in range(1, 4))} for row in range(count)]


def general_of(deployment: Deployment, general: dict[str, Any]) -> MetricsPair:
    """The metrics of a job's general rows."""
    request = deployment.request("llama", {"general": general}, method=METHOD)
    assert plan(request, Access(deployment.storage, "default", local_paths=True))
    request, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    found = deployment.run(request).metrics.general
    assert found is not None
    return found


def test_general_rows_are_measured_as_a_task_of_their_own(deployment: Deployment) -> None:
    """Plain texts, of which a fifth is set aside, have the figures of a job for these texts."""
    rows = texts(20)
    general = general_of(deployment, {"rows": rows, "seed": 3})
    assert (general.dense.metric, general.dense.examples) == ("token_probability", 4)
    source = {"uri": write_rows(deployment.root / "texts.jsonl", rows), "seed": 3}
    task = {"kind": "language_modelling", "template": None, "labels": None, "calibration": source}
    alone = deployment.run(deployment.request("llama", task, method=METHOD))
    assert general.dense == alone.metrics.dense
    assert general.slim.perplexity is not None
    assert general.slim.perplexity != general.dense.perplexity


def test_general_rows_of_another_task_have_its_metric_and_evaluation_rows(deployment: Deployment) -> None:
    rows = {"uri": deployment.rows(8, "others")}
    wording = {"template": "{text}?", "labels": {"0": "bad", "1": "good"}, "metric": "macro_f1", "name": "mood"}
    general = general_of(deployment, {**wording, **rows, "evaluation": {"uri": deployment.rows(6, "judged")}})
    assert (general.slim.metric, general.slim.examples, general.slim.label_offsets) == ("macro_f1", 6, {})
    written = general_of(deployment, {**rows, "template": "{text}:", "kind": "generation", "metric": "token_f1"})
    assert written.slim.token_log_likelihood is not None


def test_the_report_shows_general_rows(deployment: Deployment) -> None:
    general_of(deployment, {"rows": texts(20)})
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    page = (directory / "report.html").read_text()
    assert "General rows" in page
    assert "perplexity" in page
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert {"general rows", "evaluation of general rows"} <= report.digests.keys()
    assert "general: probability of a token" in (directory / "model/README.md").read_text()
    [shipped] = json.loads((directory / "model/task.json").read_bytes())["tasks"]
    assert shipped["kind"] == "classification"


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a missing column": ("llama", {"rows": [{"body": "a"}]}, "task.general.template", "names the column 'text'"),
    "a wrong label": (
        "llama",
        {"rows": [{"text": "a", "label": "2"}], "template": "{text}", "labels": {"0": "bad", "1": "good"}},
        "task.general.rows",
        "has the label '2'",
    ),
    "another kind of model": ("bert", {"rows": [{"text": "a b"}] * 9}, "task.general.kind", "`classification`"),
    "no such preset": ("llama", {"rows": [{"text": "a"}], "preset": "x"}, "task.general.preset", "no preset"),
    "one row": ("llama", {"rows": [{"text": "a b"}]}, "task.general.evaluation", "to set a fifth aside"),
    "a missing file": ("llama", {"uri": "file:///nowhere/rows.jsonl"}, "task.general.uri", "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(deployment: Deployment, case: str) -> None:
    name, general, param, message = REFUSED[case]
    labels = {"labels": {"0": "LABEL_0", "1": "LABEL_1"}} if name == "bert" else {}
    request = deployment.request(name, {"general": general} | labels)
    stored, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    attempts: tuple[Callable[[], object], ...] = (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(stored),
    )
    for refusing in attempts:
        with pytest.raises(TaskslimError, match=message) as refused:
            refusing()
        assert refused.value.param == param


def test_a_union_takes_no_general_rows(deployment: Deployment) -> None:
    entry = {"template": "{text}:", "labels": {"0": "bad", "1": "good"}, "calibration": {"uri": deployment.rows(8)}}
    tasks = [entry | {"name": "one"}, entry | {"name": "two", "general": {"rows": texts(9)}}]
    body = {"model": {"uri": "file:///model"}, "target": {"ratio": 0.3}, "tasks": tasks}
    with pytest.raises(ValueError, match="nor `general`"):
        JobRequest.model_validate(body)


def kept_of(deployment: Deployment, method: dict[str, Any], general: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The units that a job keeps."""
    task = {"general": {"rows": general}}
    request, files = take_rows(deployment.request("llama", task, method=method), "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    deployment.run(request)
    directory = deployment.root / f"downloaded-{deployment.job.id}"
    deployment.download(directory)
    return load_file(directory / "kept.safetensors")


GENERAL_METHODS: dict[str, dict[str, Any]] = {
    "selectivity": {"criterion": "selectivity", "repair": "none"},
    "ratio": {"criterion": "selectivity", "selectivity": "ratio"},
    "mixture": {"general_weight": 0.9, "criterion": "attribution", "repair": "none"},
    "mixture of the surgeon": {"general_weight": 0.9},
    "shared and exclusive units": {"general_weight": 0.9, "general_rule": "shared_exclusive"},
    "several steps": {"general_weight": 0.9, "steps": 2, "repair": "none", "criterion": "second_moment"},
}


@pytest.mark.parametrize("case", GENERAL_METHODS)
def test_general_rows_change_what_is_kept(deployment: Deployment, case: str) -> None:
    """Other general rows give another selection, the same rows the same one."""
    others = [{"text": f"{WORDS[6]} {WORDS[5]} {WORDS[row % 2]}"} for row in range(20)]
    one, again, other = (kept_of(deployment, GENERAL_METHODS[case], rows) for rows in (texts(20), texts(20), others))
    assert all(torch.equal(one[site], again[site]) for site in one)
    assert any(not torch.equal(one[site], other[site]) for site in one)


def test_the_repair_fits_general_rows_by_their_weight(deployment: Deployment) -> None:
    """With the same units, the repair brings the outputs on general rows nearer to the dense model's."""
    found = {}
    for weight in (0.0, 1.0):
        method = {"criterion": "attribution", "repair": "least_squares", "seed": 0}
        task = {"general": {"uri": write_rows(deployment.root / "general.jsonl", texts(60))}}
        method |= {"general_weight": weight} if weight else {}
        found[weight] = deployment.run(deployment.request("llama", task, method=method, target={"ratio": 0.6}))
    losses = {weight: abs(log_likelihood_lost(result.metrics.general)) for weight, result in found.items()}
    assert losses[1.0] < losses[0.0]


def log_likelihood_lost(pair: MetricsPair | None) -> float:
    assert pair is not None
    assert pair.dense.token_log_likelihood is not None
    assert pair.slim.token_log_likelihood is not None
    return pair.dense.token_log_likelihood - pair.slim.token_log_likelihood


NEEDS_GENERAL = {
    "selectivity": ({"criterion": "selectivity"}, "compares the task's rows with general rows: give `task.general`"),
    "a weight": ({"general_weight": 0.5}, "is the share of general rows: give `task.general`"),
}


@pytest.mark.parametrize("case", NEEDS_GENERAL)
def test_a_method_that_needs_general_rows_is_refused_without_them(deployment: Deployment, case: str) -> None:
    method, message = NEEDS_GENERAL[case]
    with pytest.raises(ValueError, match=message):
        deployment.request("llama", method=method)


def test_the_classes_of_general_rows_are_checked_by_the_head(deployment: Deployment) -> None:
    head = WITH_HEAD["bert"](problem_type="multi_label_classification", num_labels=3)
    checkpoints.save(deployment.root / "bert", head)
    rows = [{"text": f"{WORDS[row % 5]} film", "label": [f"LABEL_{row % 3}"]} for row in range(12)]
    several = {"kind": "multi_label", "template": "{text}"}
    task = {**several, "labels": None, "calibration": {"uri": write_rows(deployment.root / "several.jsonl", rows)}}
    wrong = {**several, "rows": [*rows, {"text": "good", "label": ["LABEL_9"]}]}
    request = deployment.request("bert", task | {"general": wrong})
    stored, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    attempts: tuple[Callable[[], object], ...] = (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(stored),
    )
    for refusing in attempts:
        with pytest.raises(TaskslimError, match="LABEL_9") as refused:
            refusing()
        assert (refused.value.param or "").startswith("task.general")
