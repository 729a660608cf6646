"""Jobs with general rows: what the model can do besides its task, measured before and after."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from service.contract.errors import TaskslimError
from service.contract.report import Report
from service.contract.request import JobRequest
from service.contract.result import MetricsPair
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows

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
