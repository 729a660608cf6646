"""Jobs of the kind `multi_label`, on tiny models whose head decides each class by itself."""

import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.errors import TaskslimError
from service.contract.options import Supervision
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.refused_rows import check_last_row_is_refused
from tests.support.stock_answers import silenced
from tests.support.tiny_models import WITH_HEAD
from worker.evaluation import decision_offsets

PROBLEM = "multi_label_classification"
TASK: dict[str, Any] = {"kind": "multi_label", "template": "{text}", "labels": None}
PATTERN = (3, 7, 1, 0, 5, 7, 3)  # bits: the labels of a row
CLASSES = ["LABEL_0", "LABEL_1", "LABEL_2"]


def texts(count: int, step: int = 1) -> list[str]:
    return [" ".join(WORDS[(row * each) % 8] for each in (step, 3, 5)) for row in range(count)]


def right(count: int) -> list[list[str]]:
    """Labels of the rows: none, one or several of them."""
    return [[name for bit, name in enumerate(CLASSES) if PATTERN[row * 5 % 7] >> bit & 1] for row in range(count)]


def labelled(count: int, step: int = 1) -> list[dict[str, Any]]:
    """Rows with lists of labels, every second one as text."""
    rows = zip(texts(count, step), right(count), strict=True)
    return [{"text": text, "label": " | ".join(names) if row % 2 else names} for row, (text, names) in enumerate(rows)]


@pytest.fixture
def tagged(deployment: Deployment) -> Callable[..., dict[str, Any]]:
    """Makes the task of a model whose head decides each class; `fields` replace its own."""

    def task(name: str = "bert", **fields: Any) -> dict[str, Any]:
        if not (deployment.root / name).exists():
            checkpoints.save(deployment.root / name, WITH_HEAD[name](num_labels=3, problem_type=PROBLEM))
        sources = {
            part: {"uri": write_rows(deployment.root / f"{part}.jsonl", labelled(count, step))}
            for part, count, step in (("calibration", 24, 1), ("evaluation", 12, 2))
        }
        return TASK | sources | fields

    return task


def outputs(directory: Path, asked: list[str], kept: Mapping[str, Tensor] | None = None) -> Tensor:
    """The outputs of a checkpoint for texts, one by one, by transformers alone (E, L)."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with silenced(model, kept or {}), torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in asked]).double()


def marks(names: list[list[str]]) -> Tensor:
    return torch.tensor([[float(name in row) for name in CLASSES] for row in names], dtype=torch.float64)


@pytest.mark.parametrize("name", WITH_HEAD)
def test_several_labels_are_judged_by_what_stock_transformers_computes(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"criterion": "attribution", "repair": "none"}
    result = deployment.run(deployment.request(name, tagged(name), method=method))
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    kept = load_file(directory / "kept.safetensors")
    target_EL = marks(right(12))
    shipped = json.loads((directory / "model/task.json").read_bytes())["tasks"][0]
    for metrics, silent in ((result.metrics.dense, {}), (result.metrics.slim, kept)):
        output_EL = outputs(deployment.root / name, texts(12, 2), silent)
        offset_L = decision_offsets.fit(outputs(deployment.root / name, texts(24), silent), marks(right(24)))
        assert list(metrics.label_offsets) == CLASSES
        assert list(metrics.label_offsets.values()) == pytest.approx(offset_L.tolist(), abs=1e-4)
        assert metrics.metric == "micro_f1"
        for estimated, decided_EL in ((metrics.value, output_EL + offset_L > 0), (metrics.raw, output_EL > 0)):
            expected = f1_score(target_EL, decided_EL.double(), average="micro", zero_division=0.0)
            assert estimated is not None
            assert estimated.value == pytest.approx(expected)
            assert estimated.value > 0
    # The bias of BERT's head contains the offsets of the slim model; the head of a decoder has none.
    is_folded = name == "bert"
    offsets = dict.fromkeys(CLASSES, 0.0) if is_folded else result.metrics.slim.label_offsets
    assert shipped["label_offsets"] == offsets
    assert (shipped["kind"], shipped["decoding"]) == ("multi_label", "likely_labels")
    assert shipped["labels"] == dict(zip(CLASSES, CLASSES, strict=True))
    served_EL = outputs(directory / "model", texts(12, 2))
    torch.testing.assert_close(served_EL, output_EL + offset_L if is_folded else output_EL, atol=1e-5, rtol=0)

    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert report.confusion is None
    assert report.options["objective"] == "margin"
    assert "A label is given where the sum is above 0" in (directory / "report.html").read_text()
    card = (directory / "model/README.md").read_text()
    assert "Multi-label, with the answers LABEL_0, LABEL_1, LABEL_2." in card
    monkeypatch.chdir(directory)
    for text, given_L in zip(texts(12, 2)[:4], (output_EL + offset_L > 0).tolist(), strict=False):
        with redirect_stdout(StringIO()) as printed:
            exec(report.snippet.replace("'...'", repr(text)), {})
        assert printed.getvalue().strip() == str([name for name, given in zip(CLASSES, given_L, strict=True) if given])


def test_labels_of_the_rows_stand_for_some_of_the_classes(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    names = {"joy": "LABEL_2", "1": "LABEL_0"}
    rows = [{"text": text, "label": [["joy"], [1.0], ["joy", 1], []][row % 4]} for row, text in enumerate(texts(24))]
    source = {"uri": write_rows(deployment.root / "named.jsonl", rows)}
    result = deployment.run(deployment.request("bert", tagged(labels=names, calibration=source, evaluation=source)))
    assert list(result.metrics.slim.label_offsets) == ["joy", "1"]
    assert result.metrics.slim.majority == 0.5
    deployment.download(deployment.root / "downloaded")
    shipped = json.loads((deployment.root / "downloaded/model/task.json").read_bytes())["tasks"][0]
    assert shipped["answer_tokens"] == {"joy": [2], "1": [0]}


def test_decisions_of_the_dense_model_stand_for_labels(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    bare = {"uri": write_rows(deployment.root / "bare.jsonl", [{"text": text} for text in texts(16)])}
    task = tagged(supervision="none", calibration=bare, evaluation=bare, metric="macro_f1")
    given = (outputs(deployment.root / "bert", texts(16)) > 0).sum(dim=0).tolist()
    result = deployment.run(deployment.request("bert", task))
    assert result.metrics.dense.judged_by is Supervision.none
    assert result.metrics.dense.value.value == 1
    deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    assert report.own_answers is not None
    assert report.own_answers.given == dict(zip(CLASSES, given, strict=True))
    assert any(given)


@pytest.mark.parametrize("target", [{"keep_metric": 0.05}, {"sweep": [0.2, 0.4]}, {"ratio": 0.3}])
def test_every_search_and_control_knows_several_labels(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], target: dict[str, Any]
) -> None:
    more = {"uri": write_rows(deployment.root / "more.jsonl", labelled(60, 2))}
    task, method = tagged(evaluation=more), {"controls": "ratio" in target}
    result = deployment.run(deployment.request("bert", task, target=target, method=method))
    if "ratio" in target:
        assert result.metrics.controls is not None
        assert result.metrics.controls.random_mean.keys() == {"value", "raw"}
    else:
        assert all(point.metric and point.share for point in result.curve)
    if "keep_metric" in target:
        assert result.kept_metric is not None
        assert result.kept_metric.steering.low >= 0.05


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a number": ({"label": 3}, "must have a list of labels, or a text with", "source"),
    "true": ({"label": True}, "must have a list of labels", "source"),
    "a list in a list": ({"label": [["LABEL_0"]]}, "must have a list of labels", "source"),
    "an object": ({"label": {"LABEL_0": 1}}, "must have a list of labels", "source"),
    "nothing": ({}, "has no value in the column 'label'", "source"),
    "a class that the head lacks": ({"label": ["LABEL_7"]}, "'LABEL_7', which the model's head lacks", "task.labels"),
    "an empty part": ({"label": "LABEL_0||LABEL_1"}, "the label '', which the model's head lacks", "task.labels"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("place", ["file", "inline"])
def test_what_is_no_list_of_classes_is_refused_with_its_row(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], case: str, place: str
) -> None:
    columns, message, param = BAD[case]
    rows = [*labelled(4), {"text": "good"} | columns]
    check_last_row_is_refused(deployment, tagged, rows, place, message, param)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a task of labels": (
        {"problem_type": PROBLEM},
        {"kind": None, "labels": {"0": "LABEL_0", "1": "LABEL_1"}},
        "task.kind",
        "send the kind `multi_label`",
    ),
    "a head of one class": ({}, {}, "task.kind", "send the kind `classification`"),
    "a regression": ({"problem_type": PROBLEM, "num_labels": 1}, {"kind": "regression"}, "task.kind", "`multi_label`"),
    "a class that the head lacks": (
        {"problem_type": PROBLEM},
        {"labels": {"0": "LABEL_0", "1": "LABEL_9"}},
        "task.labels",
        "which the model's head does not have",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(deployment: Deployment, case: str) -> None:
    head, fields, param, message = REFUSED[case]
    checkpoints.save(deployment.root / "bert", WITH_HEAD["bert"](**head))
    label = {"regression": 1.5, None: "0"}.get(
        fields.get("kind", "multi_label"), ["0" if "labels" in fields else "LABEL_0"]
    )
    source = {"uri": write_rows(deployment.root / "few.jsonl", [{"text": text, "label": label} for text in texts(8)])}
    request = deployment.request("bert", TASK | {"calibration": source} | fields)
    for refusing in (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(request),
    ):
        with pytest.raises(TaskslimError, match=message) as refused:
            refusing()
        assert refused.value.param == param
