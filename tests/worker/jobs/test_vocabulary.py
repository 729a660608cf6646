"""Jobs that remove tokens, from the request to the files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import InvalidData, TargetUnreachable, TaskslimError, UnsupportedUnit
from service.contract.request.job_request import JobRequest
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment, write_rows
from tests.support.tiny_models import changed, encoder
from worker.checkpoints.kept_indices import apply_kept
from worker.sources.fetching import FetchedModel

VOCABULARY: dict[str, Any] = {"units": ["vocabulary"]}
HEAD_LABELS = {"labels": {"1": "LABEL_1", "0": "LABEL_0"}}


def planned(deployment: Deployment, request: JobRequest) -> Any:
    return plan(request, Access(deployment.storage, "default", True, ()))


def shipped(deployment: Deployment) -> Path:
    return deployment.scratch / "output/model"


def report_of(deployment: Deployment) -> Report:
    return Report.model_validate_json((deployment.scratch / "output/report.json").read_bytes())


def rows_of(result: Result) -> tuple[int, int]:
    """(dense, slim) rows of the vocabulary."""
    [found] = [(each.dense, each.slim) for each in result.widths if each.unit == "vocabulary"]
    return found


@pytest.mark.parametrize("family", ["llama", "t5", "t5_gated", "bart", "t5gemma", "bert", "llama_classifier"])
def test_a_job_removes_as_many_parameters_as_its_plan_says(deployment: Deployment, family: str) -> None:
    task = HEAD_LABELS if family in ("bert", "llama_classifier") else {}
    request = deployment.request(family, task, method=VOCABULARY, target={"ratio": 0.125})
    plan_of, result = planned(deployment, request), deployment.run(request)
    assert rows_of(result) == (128, 112)
    assert plan_of.parameters.model_dump() == result.parameters.model_dump()
    assert (plan_of.exact, plan_of.widths) == (False, [])
    assert plan_of.vocabulary.rows == 128
    assert 4 < plan_of.vocabulary.least_rows <= 112
    removed = result.parameters.dense - result.parameters.slim
    assert removed == 16 * plan_of.vocabulary.parameters_per_row <= plan_of.vocabulary.most_parameters
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


def test_a_slim_model_answers_covered_rows_as_the_dense_one(deployment: Deployment) -> None:
    rows = {"calibration": {"uri": deployment.rows(30)}, "evaluation": {"uri": deployment.rows(12, "test")}}
    result = deployment.run(
        deployment.request("llama", rows, method=VOCABULARY, target={"ratio": 0.35}), fresh_process=True
    )
    report = report_of(deployment)
    assert report.read_tokens is not None
    assert (report.read_tokens.longer_rows, report.read_tokens.slim) == (0, report.read_tokens.dense)
    assert report.num_changed == 0
    assert result.metrics.slim.value == result.metrics.dense.value
    assert "more_tokens" not in {warning.code for warning in report.warnings}
    tokenizer, dense = (
        AutoTokenizer.from_pretrained(path) for path in (shipped(deployment), deployment.root / "llama")
    )
    assert tokenizer.tokenize("good film: positive") == dense.tokenize("good film: positive")
    model = AutoModelForCausalLM.from_pretrained(shipped(deployment))
    assert model.num_parameters() == result.parameters.slim
    assert model.config.vocab_size == rows_of(result)[1]


def test_other_rows_are_read_in_more_tokens(deployment: Deployment) -> None:
    brown = write_rows(deployment.root / "other.jsonl", [{"text": "negative brown plot", "label": 1}] * 3)
    task = {"template": "{text}:", "calibration": {"rows": [{"text": "fox", "label": n % 2} for n in range(8)]}}
    request = stored(deployment, deployment.request("llama", task | {"evaluation": {"uri": brown}}, method=VOCABULARY))
    deployment.run(request)
    report = report_of(deployment)
    assert report.read_tokens is not None
    assert report.read_tokens.longer_rows == 3
    assert report.read_tokens.slim > report.read_tokens.dense
    assert "more_tokens" in {warning.code for warning in report.warnings}


def stored(deployment: Deployment, request: JobRequest) -> JobRequest:
    """The request with its inline rows in the storage of the deployment."""
    found, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    return found


def pieces(deployment: Deployment) -> set[str]:
    return {*AutoTokenizer.from_pretrained(shipped(deployment)).get_vocab()}


def test_texts_and_named_words_stay(deployment: Deployment) -> None:
    task = {"template": "{text}:", "calibration": {"rows": [{"text": "fox", "label": n % 2} for n in range(10)]}}
    target = {"ratio": 0.55}
    deployment.run(stored(deployment, deployment.request("llama", task, method=VOCABULARY, target=target)))
    assert not {"Ġfilm", "Ġplot", "Ġgood"} & pieces(deployment)
    assert {"Ġpositive", "Ġnegative"} <= pieces(deployment)
    method = VOCABULARY | {"keep_vocabulary": ["plot", "Ġgood"]}
    texts = task | {"texts": {"rows": [{"text": "a film"}]}}
    request = deployment.request("llama", texts, method=method, target={"ratio": 0.35})
    deployment.run(stored(deployment, request))
    assert {"Ġfilm", "Ġplot", "Ġgood"} <= pieces(deployment)


def test_unused_rows_go_before_any_neuron(deployment: Deployment) -> None:
    method = {"units": ["vocabulary", "ffn"]}
    small = deployment.run(deployment.request("llama", method=method, target={"ratio": 0.1}))
    assert [each.slim for each in small.widths if each.unit == "ffn"] == [48]
    large = deployment.run(deployment.request("llama", method=method, target={"ratio": 0.5}))
    [width] = [each.slim for each in large.widths if each.unit == "ffn"]
    assert width < 48
    assert rows_of(large)[1] < rows_of(small)[1]
    larger = deployment.run(deployment.request("llama", method=method, target={"ratio": 0.6}))
    assert rows_of(larger) == rows_of(large)


def test_rows_without_a_token_go_first(deployment: Deployment) -> None:
    tokens = len(checkpoints.tokenizer())
    assert tokens < 128
    deployment.run(deployment.request("llama", method=VOCABULARY, target={"ratio": (128 - tokens) / 128}))
    assert len(pieces(deployment)) == tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {
            "method": {"units": ["vocabulary", "ffn", "heads"], "scope": "global"},
            "output": {"layout": "per_layer", "round_to": 8},
        },
        {"method": {"units": ["layers", "vocabulary"]}, "target": {"ratio": 0.6}},
        {"method": {"units": ["ffn", "vocabulary"], "controls": True}, "target": {"ratio": 0.4}},
        {"method": {"units": ["ffn", "vocabulary"]}, "target": {"keep_metric": 0.01}},
        {"method": {"units": ["ffn", "vocabulary"]}, "target": {"sweep": [0.1, 0.3], "artifacts": [0.1]}},
        {"method": {"units": ["ffn", "vocabulary"]}, "target": {"bytes": 70_000}},
        {"method": VOCABULARY, "target": {"parameters": 22_000}},
    ],
    ids=str,
)
def test_the_vocabulary_shares_the_budget_of_every_target(deployment: Deployment, fields: dict[str, Any]) -> None:
    many = {"calibration": {"uri": deployment.rows(200, "many")}}
    result = deployment.run(deployment.request("llama", many, **fields))
    dense, slim = rows_of(result)
    assert slim < dense
    assert result.bytes.slim == (shipped(deployment) / "model.safetensors").stat().st_size < result.bytes.dense
    assert len(pieces(deployment)) <= slim
    if result.metrics.controls is not None:
        assert all(abs(each.ratio - result.ratio) < 0.1 for each in result.metrics.controls.random)


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "generation": ("t5", {"kind": "generation", "template": "{text}:", "labels": None}),
    "own texts": (
        "llama",
        {"kind": "generation", "template": "{text}:", "labels": None, "supervision": "none"},
    ),
    "general": ("llama", {"general": {"rows": [{"text": "the lazy dog jumps"}] * 10}}),
    "further rows": ("bert", HEAD_LABELS | {"evaluations": {"other": {"rows": [{"text": "dog", "label": 1}] * 3}}}),
    "language modelling": ("gpt2", {"kind": "language_modelling", "template": "{text}:", "labels": None}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_is_read_again(deployment: Deployment, name: str) -> None:
    family, task = TASKS[name]
    rows = deployment.rows(30)
    if name == "own texts":
        rows = write_rows(deployment.root / "open.jsonl", [{"text": f"the dog {n}"} for n in range(20)])
    request = deployment.request(
        family, task | {"calibration": {"uri": rows}}, method=VOCABULARY, target={"ratio": 0.1}
    )
    result = deployment.run(stored(deployment, request))
    assert rows_of(result)[1] < 128
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


def test_an_encoder_without_a_head_reads_its_texts_again(deployment: Deployment) -> None:
    checkpoints.save(deployment.root / "bert", encoder("bert"))
    request = deployment.request("bert", {"kind": "embedding", "template": None, "labels": None}, method=VOCABULARY)
    result = deployment.run(request)
    assert result.metrics.slim.value.value == pytest.approx(1)
    assert rows_of(result)[1] < 128


@pytest.mark.slow
def test_several_tasks_keep_the_tokens_of_all(deployment: Deployment) -> None:
    def task(name: str, text: str) -> dict[str, Any]:
        rows = {"rows": [{"text": text, "label": n % 2} for n in range(10)]}
        return {"name": name, "template": "{text}:", "labels": {"1": "positive", "0": "negative"}, "calibration": rows}

    body = deployment.request("llama").model_dump(mode="json", exclude_unset=True)
    tasks = [task("first", "a film"), task("second", "a plot")]
    method = {"units": ["ffn", "vocabulary"]}
    request = JobRequest.model_validate(body | {"task": None, "tasks": tasks, "method": method})
    deployment.run(stored(deployment, request))
    assert {"Ġfilm", "Ġplot"} <= pieces(deployment)


def test_indices_make_the_checkpoint(deployment: Deployment, tmp_path: Path) -> None:
    method = {"units": ["ffn", "vocabulary"], "repair": "none"}
    output = {"round_to": 8, "formats": ["indices", "safetensors"]}
    deployment.run(deployment.request("llama", method=method, target={"ratio": 0.4}, output=output))
    deployment.download(tmp_path)
    base = deployment.root / "llama"
    apply_kept(tmp_path / "kept.safetensors", FetchedModel(base, base, None), None, tmp_path / "applied")
    made, written = (load_file(tmp_path / name / "model.safetensors") for name in ("applied", "model"))
    assert made.keys() == written.keys()
    assert all(torch.equal(made[name], written[name]) for name in made)
    texts = [(tmp_path / name / "tokenizer.json").read_text() for name in ("applied", "model")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_slim_model_is_slimmed_again(deployment: Deployment) -> None:
    first = deployment.run(deployment.request("llama", method=VOCABULARY, target={"ratio": 0.1}))
    again = {"model": {"uri": shipped(deployment).as_uri()}}
    second = deployment.run(deployment.request("llama", method=VOCABULARY, target={"ratio": 0.1}, **again))
    assert rows_of(second)[0] == rows_of(first)[1] > rows_of(second)[1]


@pytest.mark.slow
def test_the_padding_token_of_a_roberta_keeps_its_place(deployment: Deployment) -> None:
    model = changed("roberta", pad_token_id=5)
    model.save_pretrained(deployment.root / "roberta")
    checkpoints.tokenizer("classifier").save_pretrained(deployment.root / "roberta")
    deployment.run(deployment.request("roberta", HEAD_LABELS, method=VOCABULARY, target={"ratio": 0.3}))
    assert json.loads((shipped(deployment) / "config.json").read_text())["pad_token_id"] == 5


def refusal(deployment: Deployment, request: JobRequest) -> TaskslimError:
    """The error of a request, which plan and job have to agree on."""
    with pytest.raises(TaskslimError) as of_plan:
        planned(deployment, request)
    with pytest.raises(TaskslimError) as of_job:
        deployment.run(stored(deployment, request))
    assert (type(of_plan.value), of_plan.value.param) == (type(of_job.value), of_job.value.param)
    return of_plan.value


@pytest.mark.parametrize("family", ["gemma4_text", "marian", "m2m_100"])
def test_families_whose_rows_are_not_removed_are_refused(deployment: Deployment, family: str) -> None:
    assert isinstance(refusal(deployment, deployment.request(family, method=VOCABULARY)), UnsupportedUnit)


def test_a_tokenizer_of_whole_words_is_refused(deployment: Deployment) -> None:
    request = deployment.request("llama", method=VOCABULARY)
    path = deployment.root / "llama/tokenizer.json"
    content = json.loads(path.read_text())
    model = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "<unk>"}
    path.write_text(json.dumps(content | {"model": model}))
    assert "its tokenizer is a WordLevel model" in refusal(deployment, request).message


def test_texts_without_a_text_are_refused(deployment: Deployment) -> None:
    request = deployment.request("llama", {"texts": {"rows": [{"other": "a"}]}}, method=VOCABULARY)
    error = refusal(deployment, request)
    assert isinstance(error, InvalidData)
    assert error.param == "task.texts.rows"


def test_more_than_the_texts_leave_is_refused_with_what_they_leave(deployment: Deployment) -> None:
    with pytest.raises(TargetUnreachable, match=r"the text needs \d+ of the 128 rows"):
        deployment.run(deployment.request("llama", method=VOCABULARY, target={"ratio": 0.9}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": VOCABULARY | {"steps": 2}}, "removed in one step"),
        ({"method": VOCABULARY | {"criterion": "random"}}, "`criterion` has an effect only if other units"),
        ({"method": VOCABULARY | {"repair": "least_squares"}}, "`repair` has an effect only if other units"),
        ({"method": VOCABULARY | {"controls": True}}, "`controls` has an effect only if other units"),
        ({"method": VOCABULARY, "recovery": {}}, "`recovery` compares"),
        ({"method": {"keep_vocabulary": ["a"]}}, "give the unit `vocabulary`"),
        ({"task": {"texts": {"rows": [{"text": "a"}]}}}, "give the unit `vocabulary`"),
        ({"method": VOCABULARY, "task": {"texts": {"uri": "file:///a", "draw": "balanced"}}}, "must be `natural`"),
    ],
    ids=str,
)
def test_options_that_do_not_go_with_the_vocabulary_are_refused(
    deployment: Deployment, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        deployment.request("llama", **fields)
