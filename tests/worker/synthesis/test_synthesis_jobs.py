"""Jobs whose calibration rows a language model extends, on tiny models that write random texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.options import DropReason
from service.reports.html import render
from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.pipeline_jobs import LABELS, Deployment
from tests.support.recoveries import FAST
from tests.support.tiny_models import causal

GIVEN = 24  # calibration rows of the 30 of a deployment
STAGES = {"stages": ["rationale", "answer"]}


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """One whose model takes the tokens of several shown rows."""
    torch.set_num_threads(1)
    checkpoints.save(tmp_path / "llama", causal("llama", max_position_embeddings=512))
    return Deployment(tmp_path)


def run(deployment: Deployment, synthesis: dict[str, Any], family: str = "llama", **fields: Any) -> Result:
    task = {"synthesis": synthesis} | fields.pop("task", {})
    return deployment.run(deployment.request(family, task=task, **fields))


def written(deployment: Deployment, name: str = "written") -> list[dict[str, Any]]:
    lines = (deployment.scratch / "output/synthesis.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if name in line]


def report_of(deployment: Deployment) -> Report:
    return Report.model_validate_json((deployment.scratch / "output/report.json").read_bytes())


def own_label(directory: Path, text: str) -> str:
    """The label that a stock model gives a text."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer("<s>" + text + ":", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        last_V = model(torch.tensor([prompt])).logits[0, -1]
    ids = {label: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for label, word in LABELS.items()}
    assert all(len(tokens) == 1 for tokens in ids.values())
    return max(ids, key=lambda label: last_V[ids[label][0]].item())


def test_rows_with_the_dense_models_own_label_join_the_calibration_rows(deployment: Deployment) -> None:
    result = run(deployment, {"rows": 16})
    report, lines = report_of(deployment), written(deployment)
    found = report.synthesis[report.request.title]
    assert found.rows is not None
    assert (found.given, found.rows.written, found.chat) == (GIVEN, 16, False)
    assert found.rows.kept + sum(found.rows.dropped.values()) == 16 == len(lines)
    assert found.rows.kept == sum(found.labels.values()) > 0
    assert found.rows.dropped[DropReason.inconsistent] > 0
    assert report.calibration_examples == GIVEN + found.rows.kept
    for line in lines:
        if line["dropped"] in (None, "inconsistent"):
            is_own = own_label(deployment.root / "llama", line["text"]) == line["label"]
            assert is_own == (line["dropped"] is None)
    assert f"{found.rows.kept} of 16 kept" in render(report)
    plain = deployment.run(deployment.request())
    assert plain.metrics.dense.value == result.metrics.dense.value


def test_written_rows_depend_on_the_seed_alone(deployment: Deployment) -> None:
    found = []
    for seed in (3, 3, 4):
        run(deployment, {"rows": 6, "seed": seed})
        found.append(written(deployment))
    assert found[0] == found[1] != found[2]


def test_training_reads_rationales_first_and_holds_out_given_rows_alone(deployment: Deployment) -> None:
    recovery = FAST | STAGES | {"epochs": 2}
    result = run(deployment, {"rows": 8, "rationales": True}, recovery=recovery, method={"repair": "none"})
    report = report_of(deployment)
    counts, found = report.synthesis[report.request.title], result.recovery
    assert found is not None
    assert counts.rows is not None
    assert counts.rationales is not None
    assert counts.rationales.written == GIVEN + counts.rows.kept
    assert found.held_out_rows == 5  # a fifth of the given rows
    assert found.train_rows == GIVEN - 5 + counts.rows.kept
    first = found.rationales
    assert first is not None
    assert first.train_rows + first.held_out_rows == counts.rationales.kept
    assert 0 < first.steps < found.steps
    assert [point.step for point in found.losses[:2]] == [0, first.steps]
    assert found.losses[0].held_out >= min(point.held_out for point in found.losses)
    assert min(point.held_out for point in first.losses) < first.losses[0].held_out
    assert len(written(deployment, "rationale")) == counts.rationales.written


def test_a_named_decoder_writes_rows_for_a_classifier_by_its_chat_template(deployment: Deployment) -> None:
    writer = deployment.root / "llama"
    add_chat_template(writer, USABLE["headed"])
    labels = {"1": "LABEL_1", "0": "LABEL_0"}
    run(deployment, {"rows": 8, "model": {"uri": writer.as_uri()}}, "bert", task={"labels": labels})
    found = report_of(deployment).synthesis["own-task"]
    assert (found.chat, found.writer) == (True, writer.as_uri())
    assert found.rows is not None
    assert found.rows.written == 8
    assert found.rows.kept > 0


def test_generated_answers_are_compared_by_their_words(deployment: Deployment) -> None:
    task = {"kind": "generation", "labels": None, "template": "{text}"}
    run(deployment, {"rows": 6, "rationales": True}, task=task, recovery=FAST | STAGES | {"steps": 1})
    found = report_of(deployment).synthesis["own-task"]
    assert found.rows is not None
    assert found.rationales is not None
    assert found.labels == {}
    assert found.rows.written == 6
    assert found.rationales.written == GIVEN + found.rows.kept
