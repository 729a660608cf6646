"""Jobs of the kind `regression`, on tiny models with a head of one output."""

import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.errors import TaskslimError
from service.contract.options import Supervision
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.refused_rows import check_last_row_is_refused
from tests.support.stock_answers import LAYERS, LLAMA_LAYERS, READERS, silenced
from tests.support.tiny_models import WITH_HEAD

TASK: dict[str, Any] = {"kind": "regression", "template": "{text}", "labels": None}


def texts(count: int) -> list[str]:
    return [" ".join(WORDS[(row * step) % 8] for step in (1, 3, 5)) for row in range(count)]


def numbered(count: int) -> list[dict[str, Any]]:
    """Rows with numbers, every second one as text."""
    found = [{"text": text, "label": (7 * row % 11) / 4 - 1} for row, text in enumerate(texts(count))]
    return [row | {"label": str(row["label"])} if index % 2 else row for index, row in enumerate(found)]


@pytest.fixture
def rated(deployment: Deployment) -> Callable[..., dict[str, Any]]:
    """Makes the task of a model with a head of one output; `fields` replace its own."""

    def task(name: str = "bert", **fields: Any) -> dict[str, Any]:
        if not (deployment.root / name).exists():
            checkpoints.save(deployment.root / name, WITH_HEAD[name](num_labels=1))
        sources = {
            part: {"uri": write_rows(deployment.root / f"{part}.jsonl", numbered(count))}
            for part, count in (("calibration", 16), ("evaluation", 12))
        }
        return TASK | sources | fields

    return task


def outputs(directory: Path, kept: Mapping[str, Tensor] | None = None) -> list[float]:
    """The outputs of a checkpoint for the evaluation rows, one by one, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with silenced(model, kept or {}), torch.inference_mode():
        return [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts(12)]


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_regression_is_judged_by_what_stock_transformers_computes(
    deployment: Deployment, rated: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"criterion": "attribution", "repair": "none"}
    result = deployment.run(deployment.request(name, rated(name), method=method))
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    right = [float(row["label"]) for row in numbered(12)]
    kept = load_file(directory / "kept.safetensors")
    dense, slim = outputs(deployment.root / name), outputs(directory / "model")
    assert slim == pytest.approx(outputs(deployment.root / name, kept), abs=1e-6)
    assert slim != pytest.approx(dense, abs=1e-4)
    for metrics, found in ((result.metrics.dense, dense), (result.metrics.slim, slim)):
        assert metrics.metric == "pearson"
        assert metrics.value.value == pytest.approx(pearsonr(right, found).statistic, abs=1e-4)
        error = sum((number - output) ** 2 for number, output in zip(right, found, strict=True)) / 12
        assert metrics.mean_squared_error == pytest.approx(error, abs=1e-6)
        assert (metrics.raw, metrics.label_offsets, metrics.majority) == (None, {}, None)

    [shipped] = json.loads((directory / "model/task.json").read_bytes())["tasks"]
    assert (shipped["kind"], shipped["decoding"], shipped["metric"]) == ("regression", "output", "pearson")
    assert (shipped["labels"], shipped["answer_tokens"], shipped["label_offsets"]) == ({}, None, {})
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert (report.confusion, report.num_changed) == (None, 0)
    assert report.options["objective"] == "output"
    page = (directory / "report.html").read_text()
    assert "Mean squared error" in page
    assert "Changed answers" not in page
    card = (directory / "model/README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "type: pearsonr" in card
    monkeypatch.chdir(directory)
    with redirect_stdout(StringIO()) as printed:
        exec(report.snippet.replace("'...'", repr(texts(12)[3])), {})
    assert float(printed.getvalue()) == pytest.approx(slim[3], abs=1e-6)


@pytest.mark.parametrize("name", WITH_HEAD)
def test_units_are_scored_by_their_effect_on_the_output(
    deployment: Deployment, rated: Callable[..., dict[str, Any]], name: str
) -> None:
    """The score is the mean over the rows of (sum over tokens of h ∂output/∂h)², here by a loop over the rows."""
    task = rated(name)
    deployment.run(deployment.request(name, task, method={"criterion": "attribution", "repair": "none"}))
    deployment.download(deployment.root / "downloaded")
    kept = load_file(deployment.root / "downloaded/kept.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(deployment.root / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(deployment.root / name)
    family, stack = model.config.model_type, "encoder" if name == "bert" else "decoder"
    layers = model.get_submodule(LAYERS.get(family, LLAMA_LAYERS)[stack])
    for layer, module in enumerate(layers):
        reader = module.get_submodule(READERS.get(family, {"ffn": "mlp.down_proj"})["ffn"])
        assert isinstance(reader, nn.Linear)
        seen: list[Tensor] = []
        handle = reader.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        score_U = torch.zeros(reader.in_features)
        for row in numbered(16):
            output = model(**tokenizer(row["text"], return_tensors="pt")).logits[0, 0]
            (gradient,) = torch.autograd.grad(output, seen[-1])
            score_U += (seen[-1] * gradient).detach()[0].sum(dim=0) ** 2
        handle.remove()
        kept_K = kept[f"{stack}.{layer}.ffn"]
        assert set(kept_K.tolist()) == set(score_U.topk(len(kept_K)).indices.tolist())


def test_outputs_of_the_dense_model_stand_for_numbers(
    deployment: Deployment, rated: Callable[..., dict[str, Any]]
) -> None:
    bare = {"uri": write_rows(deployment.root / "bare.jsonl", [{"text": text} for text in texts(16)])}
    task = rated(supervision="none", calibration=bare, evaluation=bare, metric="spearman")
    result = deployment.run(deployment.request("bert", task))
    assert result.metrics.dense.judged_by is Supervision.none
    assert result.metrics.dense.value.value == pytest.approx(1)
    assert result.metrics.dense.mean_squared_error == 0
    assert result.metrics.slim.mean_squared_error is not None
    assert result.metrics.slim.mean_squared_error > 0
    deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    assert report.own_answers is not None
    assert (report.own_answers.given, report.own_answers.left_out) == ({}, 0)


@pytest.mark.parametrize("target", [{"keep_metric": 0.05}, {"sweep": [0.2, 0.4]}, {"ratio": 0.3}])
def test_every_search_and_control_knows_numbers(
    deployment: Deployment, rated: Callable[..., dict[str, Any]], target: dict[str, Any]
) -> None:
    """The numbers of the rows are those of the model, so that there is something to keep."""
    task = rated()
    rows = [{"text": f"{text} {text}", "label": 0.0} for text in texts(60)]
    checkpoint = deployment.root / "bert"
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for row in rows:
        with torch.inference_mode():
            row["label"] = model(**tokenizer(row["text"], return_tensors="pt")).logits.item()
    task |= {"evaluation": {"uri": write_rows(deployment.root / "own.jsonl", rows)}}
    method = {"controls": "ratio" in target}
    result = deployment.run(deployment.request("bert", task, target=target, method=method))
    assert result.metrics.dense.value.value == pytest.approx(1, abs=1e-6)
    if "ratio" in target:
        assert result.metrics.controls is not None
        assert result.metrics.controls.random_mean.keys() == {"value"}
    else:
        assert all(point.metric and point.share for point in result.curve)
    if "keep_metric" in target:
        assert result.kept_metric is not None
        assert result.kept_metric.metric == "pearson"
        assert result.kept_metric.steering.low >= 0.05


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a word": ({"label": "good"}, "must have a finite number, and has 'good'"),
    "true": ({"label": True}, "must have a finite number, and has 'true'"),
    "a list": ({"label": [1.5]}, "must have a finite number"),
    "nothing": ({}, "has no value in the column 'label'"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("place", ["file", "inline"])
def test_what_is_no_number_is_refused_with_its_row(
    deployment: Deployment, rated: Callable[..., dict[str, Any]], case: str, place: str
) -> None:
    columns, message = BAD[case]
    rows = [*numbered(4), {"text": "good"} | columns]
    check_last_row_is_refused(deployment, rated, rows, place, message, "source")


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, str]] = {
    "a task of labels": (
        "bert",
        {"num_labels": 1},
        {"kind": None, "labels": {"0": "LABEL_0", "1": "LABEL_1"}},
        "task.kind",
        "send the kind `regression`",
    ),
    "a head of classes": ("llama_classifier", {}, {}, "task.kind", "send the kind `classification`"),
    "several outputs": ("bert", {"problem_type": "regression"}, {}, "model.uri", "3 outputs and the problem_type"),
    "another objective": ("bert", {"num_labels": 1}, {}, "method.objective", "give one of output"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(deployment: Deployment, case: str) -> None:
    name, head, fields, param, message = REFUSED[case]
    checkpoints.save(deployment.root / name, WITH_HEAD[name](**head))
    method = {"objective": "margin"} if param == "method.objective" else {}
    rows = [row | ({"label": "0"} if "labels" in fields else {}) for row in numbered(8)]
    source = {"uri": write_rows(deployment.root / "numbers.jsonl", rows)}
    request = deployment.request(name, TASK | {"calibration": source} | fields, method=method)
    for refusing in (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(request),
    ):
        with pytest.raises(TaskslimError, match=message) as refused:
            refusing()
        assert refused.value.param == param
