"""Jobs of the kind `language_modelling`, on tiny decoders."""

import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.errors import InvalidData, TaskslimError
from service.contract.request.job_request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.stock_answers import silenced
from worker.data.plain_texts import MAX_TEXT_TOKENS

TASK: dict[str, Any] = {"kind": "language_modelling", "template": None, "labels": None}
EVALUATED = 10


def texts(count: int) -> list[str]:
    """Texts of two to six words."""
    return [" ".join(WORDS[row * step % 7] for step in range(1, 3 + row % 5)) for row in range(count)]


@pytest.fixture
def written(deployment: Deployment) -> Callable[..., dict[str, Any]]:
    """Makes the task; `fields` replace its own."""

    def task(**fields: Any) -> dict[str, Any]:
        sources = {
            part: {"uri": write_rows(deployment.root / f"{part}.jsonl", [{"text": text} for text in texts(count)])}
            for part, count in (("calibration", 16), ("evaluation", EVALUATED))
        }
        return TASK | sources | fields

    return task


def token_log_likelihood(directory: Path, kept: Mapping[str, Tensor] | None = None) -> float:
    """The mean log-probability of the tokens after the first of each text, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    total, count = 0.0, 0
    with silenced(model, kept or {}), torch.inference_mode():
        for text in texts(EVALUATED):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            total -= model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return total / count


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_plain_texts_are_judged_by_what_stock_transformers_computes(
    deployment: Deployment, written: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"criterion": "attribution", "repair": "none"}
    request = deployment.request(name, written(), method=method, output={"round_to": 8, "formats": FORMATS})
    result = deployment.run(request)
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    kept = load_file(directory / "kept.safetensors")
    dense, slim = token_log_likelihood(deployment.root / name), token_log_likelihood(directory / "model")
    assert slim == pytest.approx(token_log_likelihood(deployment.root / name, kept), abs=1e-6)
    assert slim != pytest.approx(dense, abs=1e-5)
    for metrics, found in ((result.metrics.dense, dense), (result.metrics.slim, slim)):
        assert metrics.metric == "token_probability"
        assert metrics.token_log_likelihood == pytest.approx(found, abs=1e-5)
        assert metrics.perplexity == pytest.approx(exp(-found), rel=1e-5)
        assert metrics.value.value == pytest.approx(exp(found), rel=1e-5)
        assert (metrics.raw, metrics.constant, metrics.empty, metrics.label_offsets) == (None, None, None, {})

    [shipped] = json.loads((directory / "model/task.json").read_bytes())["tasks"]
    assert (shipped["kind"], shipped["decoding"], shipped["template"]) == ("language_modelling", "likelihood", "{text}")
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert report.options["objective"] == "log_probability"
    assert "Perplexity" in (directory / "report.html").read_text()
    assert "Perplexity |" in (directory / "model/README.md").read_text()
    monkeypatch.chdir(directory)
    with redirect_stdout(StringIO()) as printed:
        exec(report.snippet.replace("'...'", repr(texts(EVALUATED)[3])), {})
    model = AutoModelForCausalLM.from_pretrained(directory / "model").eval()
    ids = AutoTokenizer.from_pretrained(directory / "model")(texts(EVALUATED)[3], return_tensors="pt")["input_ids"]
    assert float(printed.getvalue()) == pytest.approx(exp(model(input_ids=ids, labels=ids).loss.item()), rel=1e-5)


FORMATS = ["safetensors", "indices"]


@pytest.mark.parametrize("target", [{"keep_metric": 0.05}, {"sweep": [0.2, 0.4]}, {"ratio": 0.3}])
@pytest.mark.parametrize("objective", ["log_probability", "entropy"])
def test_every_search_and_control_knows_plain_texts(
    deployment: Deployment, written: Callable[..., dict[str, Any]], target: dict[str, Any], objective: str
) -> None:
    method = {"controls": "ratio" in target, "objective": objective}
    result = deployment.run(deployment.request("llama", written(), target=target, method=method))
    if "ratio" in target:
        assert result.metrics.controls is not None
        assert all(each.metrics.perplexity for each in result.metrics.controls.random)
    else:
        assert all(point.metric and point.share for point in result.curve)


def test_a_long_text_is_cut(deployment: Deployment, written: Callable[..., dict[str, Any]]) -> None:
    long = {"text": " ".join(WORDS[number % 7] for number in range(MAX_TEXT_TOKENS + 50))}
    rows = write_rows(deployment.root / "long.jsonl", [long, *({"text": text} for text in texts(8))])
    deployment.tokens_per_batch = 2048
    deployment.run(deployment.request("gpt2", written(calibration={"uri": rows})))
    deployment.download(deployment.root / "downloaded")
    report = json.loads((deployment.root / "downloaded/report.json").read_bytes())
    assert report["shortened_prompts"] == 1


def test_a_text_without_a_second_token_is_refused(
    deployment: Deployment, written: Callable[..., dict[str, Any]]
) -> None:
    rows = write_rows(deployment.root / "short.jsonl", [{"text": text} for text in (*texts(4), "")])
    with pytest.raises(InvalidData, match="line 5 has a text of 1 tokens") as refused:
        deployment.run(deployment.request("gpt2", written(calibration={"uri": rows})))
    assert refused.value.param == "task.calibration"


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "an encoder-decoder": ("t5", {}, "task.kind", "reads one text and writes another"),
    "a head": ("bert", {}, "task.kind", "send the kind `classification`"),
    "labels": ("llama", {"labels": {"0": "bad", "1": "good"}}, "task.labels", "its rows have texts"),
    "a metric of labels": ("llama", {"metric": "accuracy"}, "task.metric", "token_probability"),
    "a conversation": ("llama", {"messages": "messages"}, "task.messages", "no plain text"),
    "a prefix": ("llama", {"label_prefix": " "}, "task.label_prefix", "leave `label_prefix` out"),
    "an objective of labels": ("llama", {}, "method.objective", "give one of log_probability"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(
    deployment: Deployment, written: Callable[..., dict[str, Any]], case: str
) -> None:
    name, fields, param, message = REFUSED[case]
    method = {"objective": "margin"} if param == "method.objective" else {}
    request: JobRequest = deployment.request(name, written(**fields), method=method)
    for refusing in (
        lambda: plan(request, Access(deployment.storage, "default", local_paths=True)),
        lambda: deployment.run(request),
    ):
        with pytest.raises(TaskslimError, match=message) as refused:
            refusing()
        assert refused.value.param == param


def test_plain_texts_have_no_labels_to_do_without(
    deployment: Deployment, written: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="have no labels: leave `supervision` out"):
        deployment.request("llama", written(supervision="none"))
