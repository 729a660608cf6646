"""The model card: its metadata, read by the Hub's client, and its text."""

import re
from math import log
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from service.contract.answers.report import Ancestor, Report, ReportWarning
from service.contract.answers.result import CurvePoint, Estimate, MetricsPair
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from tests.support.contract_examples import REQUEST, report
from worker.reporting.card_metadata import licence_of, model_name
from worker.reporting.model_card import card

HUB = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"


def report_for(uri: str = HUB, **fields: Any) -> Report:
    request = JobRequest.model_validate(REQUEST.model_dump() | {"model": {"uri": uri}})
    task = {"kind": "classification", "template": "Review: {text}\nAnswer:", "labels": {"pos": "good", "neg": "bad"}}
    made = report(new_record(request), 1)
    return made.model_copy(update={"task": task, "options": {"criterion": "attribution", "sign": "signed"}} | fields)


def read(made: Report) -> Any:
    """The metadata of a report's card, as the Hub's client reads it; an invalid `model-index` is an error."""
    return read_card(card(made))


def read_card(text: str) -> Any:
    return ModelCard(text, ignore_metadata_errors=False).data


def test_metadata_names_base_model_task_and_metrics() -> None:
    data = read(report_for())
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.model_name == "SmolLM2-135M-Instruct-sst2-slim"
    assert data.tags == ["taskslim", "pruned", "sst2"]
    found = {(result.dataset_name, result.metric_name): result.metric_value for result in data.eval_results}
    rows = "evaluation rows of sst2"
    assert found == {(rows, "Accuracy"): 0.5, (rows, "Raw accuracy"): 0.5}


def test_observed_tasks_are_in_the_model_index_and_in_a_table() -> None:
    made = report_for()
    worse = made.result.metrics.slim.model_copy(update={"value": Estimate(value=0.25, low=0.2, high=0.3)})
    pair = MetricsPair(dense=made.result.metrics.dense, slim=worse)
    metrics = made.result.metrics.model_copy(update={"observed": {"topics | of\nnews": pair}})
    made = made.model_copy(update={"result": made.result.model_copy(update={"metrics": metrics})})
    results = {(result.dataset_type, result.metric_name): result.metric_value for result in read(made).eval_results}
    assert results["topics | of\nnews", "Accuracy"] == 0.25
    assert results["sst2", "Accuracy"] == 0.5
    assert "\n| topics \\| of news: accuracy | 50.0\N{NO-BREAK SPACE}% (" in card(made)


OTHER = "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n# A model"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n", {"license": "apache-2.0"}),
        (OTHER, {"license": "other", "license_name": "llama3", "license_link": "LICENSE"}),
        ("no metadata", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        (None, {}),
    ],
)
def test_licence_of_the_base_model_is_kept(tmp_path: Path, text: str | None, found: dict[str, str]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    licence = licence_of(tmp_path)
    assert licence == found
    data = ModelCard(card(report_for(), licence), ignore_metadata_errors=False).data.to_dict()  # type: ignore[no-untyped-call]
    assert {name: value for name, value in data.items() if name.startswith("license")} == found


def test_model_outside_the_hub_is_named_without_a_link() -> None:
    made = report_for("file:///models/my model/")
    assert read(made).base_model is None
    assert model_name(made) == "my-model-sst2-slim"


def test_agreement_is_not_published_as_accuracy() -> None:
    made = report_for()
    dumped = made.result.model_dump()
    for model in ("dense", "slim"):
        dumped["metrics"][model]["judged_by"] = "none"
    made = Report.model_validate(made.model_dump() | {"result": dumped})
    found = {(result.metric_type, result.metric_name) for result in read(made).eval_results}
    name = "Agreement with the dense model"
    assert found == {("agreement", name), ("agreement", "Raw agreement with the dense model")}
    text = card(made)
    assert "The rows have no labels" in text
    assert "accuracy" not in text.lower()


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_every_kind_of_family_has_a_pipeline_tag(family: str) -> None:
    pipelines = {"llama": "text-generation", "t5": "text2text-generation", "bert": "text-classification"}
    assert read(report_for(family=family)).pipeline_tag == pipelines[family]


def test_text_has_the_snippet_and_the_warnings() -> None:
    made = report_for(snippet="model = load()\n", warnings=[ReportWarning(code="at_majority", message="No better.")])
    text = card(made)
    for expected in (
        "```python\nmodel = load()\n```",
        "Review: {text}\nAnswer:",
        "good, bad",
        "- No better.",
    ):
        assert expected in text


def test_tables_have_no_empty_lines() -> None:
    table = re.search(r"\| \| dense \| slim \|\n\| --- .*\n((?:\|.*\n)+)", card(report_for()))
    assert table is not None
    assert table[1].count("\n") == 2


def report_with(**fields: Any) -> Report:
    """The report of a request with other fields."""
    made = report_for()
    request = made.request.model_dump(exclude_unset=True)
    changed = {name: request.get(name, {}) | value for name, value in fields.items()}
    return made.model_copy(update={"request": JobRequest.model_validate(request | changed)})


@pytest.mark.parametrize(
    ("criterion", "cited"),
    [("attribution", "2205.04157"), ("wanda", "2306.11695"), ("surgeon", "1503.05671"), ("random", None)],
)
def test_criterion_is_cited_with_its_own_source(criterion: str, cited: str | None) -> None:
    text = card(report_with(method={"criterion": criterion}))
    assert f"criterion `{criterion}`" in text
    assert re.findall(r"arxiv.org/abs/([\d.]+)", text) == ([cited] if cited else [])


def test_text_describes_the_whole_method() -> None:
    method = {"scope": "global", "steps": 3, "repair": "bias"}
    text = card(report_with(method=method, output={"layout": "per_layer"}))
    for expected in ("`global`", "in 3 steps", "`bias`", "`per_layer`"):
        assert expected in text
    assert "weights that stay are unchanged" in card(report_with(method={"repair": "none"}))


def test_text_names_adapter_and_revision() -> None:
    text = card(report_with(model={"revision": "v1.2", "adapter_uri": "hf://owner/reviews-lora"}))
    assert "SmolLM2-135M-Instruct at revision v1.2 with the adapter owner/reviews-lora merged, slimmed for" in text


def test_path_of_an_adapter_outside_the_hub_is_not_published() -> None:
    text = card(report_with(model={"adapter_uri": "file:///home/someone/reviews-lora/"}))
    assert "with the adapter reviews-lora merged" in text
    assert "/home/someone" not in text


def test_base_model_of_a_slimmed_model_is_the_first_of_its_lineage() -> None:
    made = report_for("job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX")
    parent = Ancestor(job_id="one", model=HUB, ratio=0.3, parameters=made.result.parameters, widths=[])
    again = made.model_copy(update={"lineage": [parent]})
    assert read(again).base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert model_name(again) == "SmolLM2-135M-Instruct-sst2-slim"
    assert "which 1 job has slimmed before" in card(again)


def test_text_names_revision_and_adapters_over_several_jobs() -> None:
    made = report_for("job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX", snippet="")
    first = Ancestor(
        job_id="one",
        model=HUB,
        revision="v1.2",
        adapter_uri="hf://owner/reviews-lora",
        ratio=0.3,
        parameters=made.result.parameters,
        widths=[],
    )
    second = Ancestor(job_id="two", model="job://one", ratio=0.3, parameters=made.result.parameters, widths=[])
    text = card(made.model_copy(update={"lineage": [first, second]}))
    assert (
        "SmolLM2-135M-Instruct at revision v1.2 with the adapter owner/reviews-lora merged, which 2 jobs have" in text
    )


def test_each_checkpoint_of_a_sweep_has_its_own_figures() -> None:
    made = report_for(
        snippet='model = load.from_pretrained("model")', warnings=[ReportWarning(code="at_majority", message="Bad.")]
    )
    metric = Estimate(value=0.45, low=0.4, high=0.5)
    point = CurvePoint(ratio=0.1, parameters=9, bytes=18, examples=20, metric=metric, artifact="model-0.1")
    text = card(made, point=point)
    assert 'from_pretrained("model-0.1")' in text
    assert "10.0\N{NO-BREAK SPACE}% of its ffn parameters are cut out, which leaves\n9 of 10" in text
    assert "| Accuracy | 50.0\N{NO-BREAK SPACE}% (40.0" in text
    assert "45.0\N{NO-BREAK SPACE}% (40.0" in text
    assert "Bad." not in text
    assert "without label offsets" not in text


def generated(**fields: Any) -> Report:
    """The report of a sweep of a generation task, changed by `fields`."""
    made = report_for()
    metrics = {"examples": 20, "metric": "exact_match", "value": {"value": 0.5, "low": 0.4, "high": 0.6}}
    both = [made.result.metrics.dense.model_dump() | metrics for _ in range(2)]
    for one, likelihood in zip(both, (log(0.8), log(0.4)), strict=True):
        one |= {"raw": None, "constant": None, "majority": None, "log_likelihood": None}
        one |= {"token_log_likelihood": likelihood, "repetition": 0.0}
    result = made.result.model_dump() | {
        "metrics": {"dense": both[0], "slim": both[1]},
        "curve": [point.model_dump() for point in (POINT, WHOLE)],
    }
    request = made.request.model_dump(exclude_unset=True) | {"target": {"sweep": [0.1, 0.3], "artifacts": [0.1, 0.3]}}
    return Report.model_validate(made.model_dump() | {"result": result, "request": request} | fields)


SPAN = {"low": 0.3, "high": 0.75}
POINT = CurvePoint(
    ratio=0.1, parameters=9, bytes=18, examples=20, metric=Estimate(value=0.7, **SPAN), artifact="model-0.1"
)
WHOLE = CurvePoint(ratio=0.3, parameters=7, bytes=14, examples=20, metric=Estimate(value=0.4, **SPAN), artifact="model")


@pytest.mark.parametrize(
    ("point", "expected"), [(None, "50.0 % (40.0 % to 60.0 %)"), (POINT, "70.0 % (30.0 % to 75.0 %)")]
)
def test_each_checkpoint_of_a_generation_sweep_has_its_own_figures(point: CurvePoint | None, expected: str) -> None:
    text = card(generated(), point=point)
    row = f"| Exact match | 50.0 % (40.0 % to 60.0 %) | {expected} |"
    assert row.replace(" %", "\N{NO-BREAK SPACE}%") in text
    likely = "| Probability of a token | 80.0 % | 40.0 % |".replace(" %", "\N{NO-BREAK SPACE}%")
    assert (likely in text) == (point is None)
    found = {each.metric_type: each.metric_value for each in read_card(text).eval_results}
    assert found["exact_match"] == pytest.approx(0.7 if point else 0.5)


def test_card_of_a_search_has_no_figures_of_the_steering_rows() -> None:
    request = report_for().request.model_dump(exclude_unset=True) | {"target": {"keep_metric": 0.5}}
    text = card(generated(request=request))
    row = "| Exact match | 50.0 % (40.0 % to 60.0 %) | 50.0 % (40.0 % to 60.0 %) |"
    assert row.replace(" %", "\N{NO-BREAK SPACE}%") in text
    assert "70.0" not in text


def test_checkpoint_without_any_right_answer_has_a_metric_of_zero() -> None:
    ruined = POINT.model_copy(update={"metric": Estimate(value=0.0, low=0.0, high=0.1)})
    text = card(generated(), point=ruined)
    assert "| 0.0\N{NO-BREAK SPACE}% (0.0" in text
    assert "Probability of a token" not in text
    assert "10.0\N{NO-BREAK SPACE}% of its ffn parameters are cut out" in text
