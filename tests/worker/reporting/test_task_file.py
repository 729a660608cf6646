"""The file task.json: what is shipped beside the weights gives the answers that the report has."""

import json
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.answers.task_file import TaskFile
from tests.support.pipeline_jobs import Deployment
from tests.support.searches import search_job
from worker.reporting import task_file
from worker.stages.task_model import evaluate

SEVERAL_TOKENS = {"labels": {"1": "positive film", "0": "bad"}}
CLASSES = {"template": "{text}", "labels": {"0": "LABEL_2", "1": "LABEL_0"}}
WORDS = {"max_words": 2}


def downloaded(tmp_path: Path, family: str, task: dict[str, Any], **fields: Any) -> tuple[Report, TaskFile, list[Any]]:
    """The report, the tasks and the evaluation rows of a job, whose files are downloaded."""
    torch.set_num_threads(1)
    deployment = Deployment(tmp_path)
    evaluation = deployment.rows(12, "evaluation")
    deployment.run(deployment.request(family, task | {"evaluation": {"uri": evaluation}}, **fields))
    deployment.download(tmp_path)
    report = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    tasks = TaskFile.model_validate_json((tmp_path / "model/task.json").read_bytes())
    return report, tasks, list(map(json.loads, (tmp_path / "evaluation.jsonl").read_text().splitlines()))


@pytest.mark.parametrize(
    ("family", "task"), [("llama", WORDS), ("llama", SEVERAL_TOKENS), ("t5", SEVERAL_TOKENS)], ids=str
)
def test_snippet_gives_the_answers_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: dict[str, Any]
) -> None:
    report, tasks, rows = downloaded(tmp_path, family, task)
    assert any(tasks.tasks[0].label_offsets.values())
    monkeypatch.chdir(tmp_path)
    right = 0
    for row in rows:
        with redirect_stdout(StringIO()) as printed:
            exec(report.snippet.replace("'...'", repr(row["text"])), {})
        right += printed.getvalue().strip() == str(row["label"])
    assert right / len(rows) == report.result.metrics.slim.value.value


def test_head_of_a_classifier_contains_the_offsets(tmp_path: Path) -> None:
    report, tasks, rows = downloaded(tmp_path, "bert", CLASSES)
    assert set(tasks.tasks[0].label_offsets.values()) == {0.0}
    assert report.result.verified.max_abs_logit_difference <= report.result.verified.tolerance
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    right = 0
    for row in rows:
        with torch.inference_mode():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        right += int(logits[2] < logits[0]) == row["label"]
    assert right / len(rows) == report.result.metrics.slim.value.value


def test_offsets_stay_in_the_file_where_the_head_serves_other_tasks(tmp_path: Path) -> None:
    job = search_job(tmp_path, "bert", num_rows=8)
    offset_L = evaluate(job.context, job.task_model).answers.offset_L
    assert offset_L is not None
    task = replace(job.task_model, offset_L=offset_L)
    folded_V = task_file.class_offsets([task], has_others=False)
    assert folded_V is not None
    assert folded_V[[0, 2]].tolist() == offset_L.tolist()
    assert task_file.class_offsets([task], has_others=True) is None
    assert task_file.class_offsets([task, task], has_others=False) is None
    assert list(task_file.build([task], is_folded=False).tasks[0].label_offsets.values()) == offset_L.tolist()
