"""Unions: one model that is slimmed for several tasks and measured on each of them."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.contract.answers.report import Report
from service.contract.errors import InvalidLabels, TaskslimError
from service.contract.request.job_request import JobRequest
from tests.support.pipeline_jobs import Deployment

FIRST = {"1": "positive", "0": "negative"}
SECOND = {"1": "lazy", "0": "quick"}


def several(deployment: Deployment, *changed: dict[str, Any], **fields: Any) -> JobRequest:
    """A request for two tasks on the same rows with different templates and labels."""
    rows = {"uri": deployment.rows(30)}
    tasks = [
        {"name": "mood", "template": "{text}:", "labels": FIRST, "calibration": rows},
        {"name": "speed", "template": "{text} {text}:", "labels": SECOND, "calibration": rows},
    ]
    for task, more in zip(tasks, changed, strict=False):
        task |= more
    body = deployment.request(**fields).model_dump(exclude_defaults=True) | {"tasks": tasks}
    del body["task"]
    return JobRequest.model_validate(body)


def test_every_task_of_a_union_is_measured_on_one_model(deployment: Deployment) -> None:
    result = deployment.run(several(deployment, method={"repair": "least_squares"}))
    alone = deployment.run(deployment.request(task={"labels": SECOND, "template": "{text} {text}:"}))
    deployment.run(several(deployment))
    manifest = deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    assert list(result.metrics.tasks) == ["mood", "speed"]
    assert result.metrics.tasks["speed"].dense == alone.metrics.dense
    assert result.metrics.dense.examples == 12
    assert report.calibration_examples == 48
    assert report.tasks["speed"]["labels"] == SECOND
    assert report.confusion is not None
    assert report.confusion.labels == ["mood: 1", "mood: 0", "speed: 1", "speed: 0"]
    assert sum(map(sum, report.confusion.slim)) == 12
    assert {"calibration of speed", "evaluation of speed"} < set(report.digests)
    assert {row.task for row in report.changed} <= {"mood", "speed"}
    page = (deployment.root / "downloaded/report.html").read_text()
    assert "Task by task" in page
    card = (deployment.root / "downloaded/model/README.md").read_text()
    assert "slimmed for 2 tasks" in card
    assert "speed: Classification, with the answers lazy, quick." in card
    assert "model/README.md" in {file.name for file in manifest.files}


def test_union_of_one_task_twice_keeps_the_units_of_the_task(deployment: Deployment) -> None:
    kept = []
    twice = {"template": "{text}:", "labels": FIRST}
    for request in (deployment.request(), several(deployment, {}, twice)):
        deployment.run(request)
        directory = deployment.root / deployment.job.id
        deployment.download(directory)
        kept.append(load_file(directory / "kept.safetensors"))
    assert all(torch.equal(kept[0][site], kept[1][site]) for site in kept[0])


def test_error_of_a_union_task_names_its_place_in_the_request(deployment: Deployment) -> None:
    alike = {"labels": {"1": "goodé", "0": "good"}}
    cases: list[tuple[list[dict[str, Any]], str]] = [([alike], "tasks.0"), ([{}, alike], "tasks.1")]
    for changed, place in cases:
        with pytest.raises(InvalidLabels) as caught:
            deployment.run(several(deployment, *changed))
        assert caught.value.param == f"{place}.labels"
    with pytest.raises(TaskslimError) as caught_rows:
        deployment.run(several(deployment, {}, {"calibration": {"uri": "file:///no/such.jsonl"}}))
    assert caught_rows.value.param == "tasks.1.calibration.uri"
