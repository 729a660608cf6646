"""A job with few calibration rows adds recombined ones, which the dense model labels."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.contract.report import Report
from tests.support.pipeline_jobs import Deployment, write_rows


def report_of(deployment: Deployment, **fields: Any) -> Report:
    deployment.run(deployment.request(**fields))
    directory = deployment.root / deployment.job.id
    deployment.download(directory)
    return Report.model_validate_json((directory / "report.json").read_bytes())


def test_few_rows_are_completed_and_counted(deployment: Deployment) -> None:
    report = report_of(deployment, method={"least_rows": 40})
    assert (report.calibration_examples, report.recombined_examples) == (40, 16)


@pytest.mark.parametrize("least_rows", [0, 24])
def test_enough_rows_are_left_as_they_are(deployment: Deployment, least_rows: int) -> None:
    report = report_of(deployment, method={"least_rows": least_rows})
    assert (report.calibration_examples, report.recombined_examples) == (24, 0)


def test_label_offsets_of_the_dense_model_do_not_depend_on_recombined_rows(deployment: Deployment) -> None:
    few, completed = (report_of(deployment, method={"least_rows": rows}) for rows in (0, 128))
    assert few.result.metrics.dense == completed.result.metrics.dense
    assert few.digests == completed.digests


def test_recombined_rows_are_scored(deployment: Deployment) -> None:
    method = {"criterion": "attribution", "repair": "none"}
    kept = []
    for least_rows in (0, 512):
        report_of(deployment, method=method | {"least_rows": least_rows}, output={"round_to": 1})
        kept.append(load_file(deployment.root / deployment.job.id / "kept.safetensors"))
    assert any(not torch.equal(kept[0][site], kept[1][site]) for site in kept[0])


def test_tasks_of_a_union_are_completed_one_by_one(deployment: Deployment) -> None:
    task = {
        "template": "{text}:",
        "labels": {"1": "positive", "0": "negative"},
        "calibration": {"uri": deployment.rows(30)},
    }
    request = deployment.request(method={"least_rows": 40})
    asked = request.model_dump(mode="json", exclude_unset=True, exclude={"task"})
    union = type(request).model_validate(asked | {"tasks": [task, task | {"name": "again"}]})
    deployment.run(union)
    directory = deployment.root / deployment.job.id
    deployment.download(directory)
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert (report.calibration_examples, report.recombined_examples) == (80, 32)


def test_generation_task_is_not_completed(deployment: Deployment) -> None:
    rows = [{"text": "good film", "target": "good"}, {"text": "bad plot", "target": "bad"}] * 5
    task = {
        "kind": "generation",
        "template": "{text}:",
        "labels": None,
        "calibration": {"uri": write_rows(deployment.root / "texts.jsonl", rows)},
    }
    report = report_of(deployment, task=task, method={"least_rows": 40})
    assert report.recombined_examples == 0
