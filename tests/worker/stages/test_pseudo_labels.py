"""Pseudo-labels: the dense model's answers in place of missing labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import InvalidData, InvalidRequest, UnknownLabel
from service.contract.options import Supervision
from tests.support.pipeline_jobs import LABELS, WORDS, Deployment, write_rows

UNSUPERVISED = {"supervision": "none"}


def texts(count: int) -> list[str]:
    return [" ".join(WORDS[(row * step) % 8] for step in (1, 3, 5)) for row in range(count)]


def rows_at(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """A source of these rows."""
    return {"uri": write_rows(path, rows)}


def unlabelled(deployment: Deployment, count: int = 24) -> dict[str, str]:
    return rows_at(deployment.root / "unlabelled.jsonl", [{"text": text} for text in texts(count)])


def left(deployment: Deployment) -> tuple[Report, dict[str, torch.Tensor]]:
    """The report of the last job, and the indices of the units that it kept."""
    directory = deployment.root / deployment.job.id
    deployment.download(directory)
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    return report, load_file(directory / "kept.safetensors")


def judged(result: Result) -> set[Supervision]:
    return {result.metrics.dense.judged_by, result.metrics.slim.judged_by}


def test_pseudo_labels_keep_the_same_units_as_equal_labels(deployment: Deployment) -> None:
    task = UNSUPERVISED | {"calibration": unlabelled(deployment), "evaluation": {"uri": deployment.rows(10, "judge")}}
    result = deployment.run(deployment.request("t5", task))
    report, kept = left(deployment)
    assert report.own_answers is not None
    assert sum(report.own_answers.given.values()) == report.calibration_examples == 24
    assert min(report.own_answers.given.values()) > 0
    assert judged(result) == {Supervision.labels}

    # The job's model answers all unlabelled rows as evaluation rows, which shows the answers that it gave.
    asked = UNSUPERVISED | {"calibration": unlabelled(deployment), "evaluation": unlabelled(deployment)}
    agreeing = deployment.run(deployment.request("t5", asked))
    assert judged(agreeing) == {Supervision.none}
    assert agreeing.metrics.dense.value.value == 1.0
    confusion = left(deployment)[0].confusion
    assert confusion is not None
    assert {label: sum(row) for label, row in zip(confusion.labels, confusion.dense, strict=True)} == (
        report.own_answers.given
    )

    answers = [_answer(deployment, text) for text in texts(24)]
    named = rows_at(
        deployment.root / "named.jsonl",
        [{"text": text, "label": label} for text, label in zip(texts(24), answers, strict=True)],
    )
    deployment.run(
        deployment.request("t5", {"calibration": named, "evaluation": {"uri": deployment.rows(10, "judge")}})
    )
    by_label = left(deployment)[1]
    assert all(torch.equal(kept[site], by_label[site]) for site in kept)


def _answer(deployment: Deployment, text: str) -> str:
    """The answer of the dense T5 to one row, computed without any code of the service."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    directory = deployment.root / "t5"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer(f"{text}:", return_tensors="pt").input_ids
    likelihood = {}
    for label, word in LABELS.items():
        answer = tokenizer(word, add_special_tokens=False, return_tensors="pt").input_ids
        opening = torch.full((1, 1), model.config.decoder_start_token_id)
        with torch.inference_mode():
            logits = model(input_ids=prompt, decoder_input_ids=torch.cat([opening, answer[:, :-1]], 1)).logits
        likelihood[label] = logits.log_softmax(-1)[0].gather(1, answer[0].unsqueeze(1)).sum().item()
    return max(likelihood, key=lambda label: likelihood[label])


def test_answers_below_the_confidence_are_counted_and_left_out(deployment: Deployment) -> None:
    task = UNSUPERVISED | {"calibration": unlabelled(deployment), "evaluation": {"uri": deployment.rows(10)}}
    deployment.run(deployment.request(task=task | {"confidence": 0.6, "special_tokens": False}))
    report, _ = left(deployment)
    assert report.own_answers is not None
    assert 0 < report.own_answers.left_out < 24
    assert report.calibration_examples == 24 - report.own_answers.left_out


@pytest.mark.parametrize(
    ("family", "fields", "message", "param"),
    [
        ("llama", {"confidence": 0.999}, "none of the model's 24 answers", "task.confidence"),
        ("t5", {"confidence": 0.9999}, "does not answer '1' to any calibration row with", "task.confidence"),
        (
            "bert",
            {"template": "{text}", "labels": {"0": "LABEL_0", "1": "LABEL_2"}},
            "does not answer '0' to any calibration row, so",
            "task.supervision",
        ),
    ],
)
def test_unusable_answers_fail_the_job(
    deployment: Deployment, family: str, fields: dict[str, Any], message: str, param: str
) -> None:
    task = UNSUPERVISED | {"calibration": unlabelled(deployment), "evaluation": {"uri": deployment.rows(10)}} | fields
    with pytest.raises(InvalidRequest, match=message) as failed:
        deployment.run(deployment.request(family, task))
    assert failed.value.code == "unusable_answers"
    assert failed.value.param == param
    assert deployment.storage.list("") == []


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_generated_text_is_the_target_of_an_unlabelled_row(deployment: Deployment, family: str) -> None:
    task = UNSUPERVISED | {"kind": "generation", "labels": None, "calibration": unlabelled(deployment, 12)}
    result = deployment.run(deployment.request(family, task))
    assert judged(result) == {Supervision.none}
    assert result.metrics.dense.value.value == 1.0
    report, _ = left(deployment)
    assert report.own_answers is not None
    assert (report.own_answers.given, report.own_answers.left_out) == ({}, 0)


def test_partly_labelled_evaluation_rows_are_refused(deployment: Deployment) -> None:
    some = [{"text": text} for text in texts(4)] + [{"text": "good", "label": "1"}]
    task = UNSUPERVISED | {
        "calibration": unlabelled(deployment),
        "evaluation": rows_at(deployment.root / "s.jsonl", some),
    }
    with pytest.raises(InvalidData, match="line 1 has no value in the column 'label'"):
        deployment.run(deployment.request(task=task))


def test_every_set_of_further_rows_is_reported(deployment: Deployment) -> None:
    sets = {"same": {"uri": deployment.rows(10, "judge")}, "far-domain": {"uri": deployment.rows(7, "far")}}
    result = deployment.run(deployment.request(task={"evaluation": sets["same"], "evaluations": sets}))
    found = result.metrics.evaluations
    assert {name: pair.slim.examples for name, pair in found.items()} == {"same": 10, "far-domain": 7}
    assert found["same"].dense == result.metrics.dense
    assert found["same"].slim == result.metrics.slim
    report, _ = left(deployment)
    assert report.result == result
    assert {"evaluations same", "evaluations far-domain"} < set(report.digests)
    assert "far-domain" in (deployment.root / deployment.job.id / "report.html").read_text()


def test_further_rows_with_an_unknown_label_are_refused(deployment: Deployment) -> None:
    other = rows_at(deployment.root / "other.jsonl", [{"text": "good", "label": "1"}, {"text": "bad", "label": "2"}])
    with pytest.raises(UnknownLabel, match=r"other.jsonl: line 2 has the label '2'"):
        deployment.run(deployment.request(task={"evaluations": {"other": other}}))


def test_balanced_draw_limits_the_calibration_rows(deployment: Deployment) -> None:
    rows = [{"text": text, "label": str(int(row % 8 == 0))} for row, text in enumerate(texts(40))]
    source = rows_at(deployment.root / "skewed.jsonl", rows) | {"limit": 8, "draw": "balanced"}
    deployment.run(deployment.request(task={"calibration": source, "evaluation": {"uri": deployment.rows(6)}}))
    report, _ = left(deployment)
    assert report.calibration_examples == 8
