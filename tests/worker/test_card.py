"""The model card is one that the Hub's own client reads."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from service.job_record import new_record
from service.schemas import Estimate, JobRequest, MetricsPair, Report, ReportWarning
from tests.records import REQUEST, report
from worker.card import card, licence_of, model_name

HUB = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"


def report_for(uri: str = HUB, **fields: Any) -> Report:
    request = JobRequest.model_validate(REQUEST.model_dump() | {"model": {"uri": uri}})
    task = {"kind": "classification", "template": "Review: {text}\nAnswer:", "labels": {"pos": "good", "neg": "bad"}}
    made = report(new_record(request), 1)
    return made.model_copy(update={"task": task, "options": {"criterion": "attribution", "sign": "signed"}} | fields)


def read(made: Report) -> Any:
    """The metadata as the Hub's client reads it from a README.md; its `model-index` must be whole."""
    return ModelCard(card(made), ignore_metadata_errors=False).data


def test_metadata_names_base_task_and_metrics() -> None:
    data = read(report_for())
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.model_name == "SmolLM2-135M-Instruct-sst2-slim"
    assert data.tags == ["taskslim", "pruned", "sst2"]
    found = {(result.dataset_name, result.metric_name): result.metric_value for result in data.eval_results}
    rows = "evaluation rows of sst2"
    assert found == {(rows, "Accuracy"): 0.5, (rows, "Calibrated accuracy"): 0.5}


def test_tasks_that_were_observed_are_in_the_index_and_in_a_table() -> None:
    made = report_for()
    worse = made.result.metrics.slim.model_copy(update={"calibrated_accuracy": Estimate(value=0.25, low=0.2, high=0.3)})
    pair = MetricsPair(dense=made.result.metrics.dense, slim=worse)
    metrics = made.result.metrics.model_copy(update={"observed": {"topics | of\nnews": pair}})
    made = made.model_copy(update={"result": made.result.model_copy(update={"metrics": metrics})})
    results = {(result.dataset_type, result.metric_name): result.metric_value for result in read(made).eval_results}
    assert results["topics | of\nnews", "Calibrated accuracy"] == 0.25
    assert results["sst2", "Calibrated accuracy"] == 0.5
    assert "\n| topics \\| of news: calibrated accuracy | 50.0\N{NO-BREAK SPACE}% (" in card(made)


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
def test_licence_of_the_base_model_is_carried_over(tmp_path: Path, text: str | None, found: dict[str, str]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    licence = licence_of(tmp_path)
    assert licence == found
    data = ModelCard(card(report_for(), licence), ignore_metadata_errors=False).data.to_dict()  # type: ignore[no-untyped-call]
    assert {name: value for name, value in data.items() if name.startswith("license")} == found


def test_a_model_that_is_on_no_hub_is_named_without_a_link() -> None:
    made = report_for("file:///models/my model/")
    assert read(made).base_model is None
    assert model_name(made) == "my-model-sst2-slim"


def test_agreement_is_not_published_as_accuracy() -> None:
    made = report_for()
    dumped = made.result.model_dump()
    for model in ("dense", "slim"):
        dumped["metrics"][model]["judged_by"] = "none"
    made = Report.model_validate(made.model_dump() | {"result": dumped})
    found = {result.metric_type: result.metric_name for result in read(made).eval_results}
    assert found == {"agreement": "Calibrated agreement with the dense model"}
    text = card(made)
    assert "They have no labels" in text
    assert "accuracy" not in text.lower()


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_every_kind_of_family_has_its_pipeline(family: str) -> None:
    pipelines = {"llama": "text-generation", "t5": "text2text-generation", "bert": "text-classification"}
    assert read(report_for(family=family)).pipeline_tag == pipelines[family]


def test_text_says_how_to_use_it_and_what_to_beware_of() -> None:
    made = report_for(snippet="model = load()\n", warnings=[ReportWarning(code="at_majority", message="No better.")])
    text = card(made)
    for expected in (
        "```python\nmodel = load()\n```",
        "Review: {text}\nAnswer:",
        "good, bad",
        "- No better.",
        "2205.04157",
    ):
        assert expected in text


def test_tables_have_no_gaps_that_would_end_them() -> None:
    table = re.search(r"\| \| dense \| slim \|\n\| --- .*\n((?:\|.*\n)+)", card(report_for()))
    assert table is not None
    assert table[1].count("\n") == 2
