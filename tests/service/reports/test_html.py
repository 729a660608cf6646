"""The report as a page: whole, safe, and in need of nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contract.answers.report import (
    Ancestor,
    ChangedAnswer,
    Report,
    Throughput,
)
from service.contract.answers.result import (
    DenseSlim,
    Estimate,
    JobMetrics,
    MetricsPair,
    Result,
)
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.reports.html import render, style_source
from service.storage.object_store import Storage
from tests.support.browser import Browser, Tab
from tests.support.contract_examples import REQUEST, result
from tests.support.finished_jobs import FILES, finish
from tests.support.reports import layers, report
from tests.support.requests import plain_request

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Sources(HTMLParser):
    """Collects what a page would load or run, and its elements without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name) for name, _ in attrs if name in ("src", "href", "style") or name.startswith("on")]
        self.found += [(tag, "")] if tag in ("script", "link", "img", "iframe", "object") else []
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sources(page: str) -> Sources:
    found = Sources()
    found.feed(page)
    return found


def test_page_has_no_scripts_or_links_and_closes_every_element() -> None:
    found = sources(render(report()))
    assert found.found == []
    assert found.open == []


def test_texts_of_the_request_and_the_rows_are_escaped() -> None:
    row = ChangedAnswer(line=1, fields={"text": EVIL}, right=EVIL, dense=EVIL, slim=EVIL)
    page = render(report(changed=[row], snippet=EVIL, task={"template": EVIL}, request=plain_request(tags={"x": EVIL})))
    assert sources(page).found == []
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "expected",
    [
        "attempt 2",
        "No better than the most frequent label.",
        "40.0\N{NO-BREAK SPACE}% to 60.0\N{NO-BREAK SPACE}%",
        '<th scope="col">line</th>',
        "so so",
        "30.0 rows/s",
        '<th scope="row">attribute</th>',
        "ab" * 32,
        "model = load()",
        "AutoModelForCausalLM",
        "2.13.0",
        "search",
        "Review: {text}",
        "123, drawn by seed 0",
    ],
)
def test_page_shows_every_part_of_the_report(expected: str) -> None:
    assert expected in render(report())


def test_label_offsets_of_both_models_are_shown_beside_each_other() -> None:
    found = result().metrics
    dense, slim = (
        metrics.model_copy(update={"label_offsets": {"bad": 0.0, "good": offset}})
        for metrics, offset in ((found.dense, -0.25), (found.slim, 1.5))
    )
    page = render(report(result=result().model_copy(update={"metrics": JobMetrics(dense=dense, slim=slim)})))
    assert '<th scope="row">good</th><td>-0.250</td><td>+1.500</td>' in page
    assert "Label offsets" not in render(report())


def test_page_of_a_generation_task_has_no_sections_for_labels() -> None:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"examples": 20, "metric": "exact_match", "value": estimate, "repetition": 0.1}
    found = result().model_dump() | {"metrics": {"dense": metrics, "slim": metrics}}
    page = render(report(result=found, confusion=None, changed=[], num_changed=0, layers=[]))
    assert "Exact match" in page
    assert "Answers by label" not in page
    assert "same answer to every evaluation row" in page


def test_observed_tasks_are_shown_with_both_metrics() -> None:
    metrics = result().metrics
    better = metrics.dense.model_copy(update={"value": Estimate(value=0.9, low=0.8, high=0.95)})
    seen = metrics.model_copy(update={"observed": {EVIL: MetricsPair(dense=better, slim=metrics.slim)}})
    page = render(report(result=result().model_copy(update={"metrics": seen})))
    assert "Observed tasks" in page
    assert "−40.0 points" in page
    assert sources(page).found == []


def test_measured_models_are_shown_as_a_chart_and_a_table() -> None:
    estimate = {"value": 0.45, "low": 0.4, "high": 0.5}
    points = [
        {"ratio": 0.2, "parameters": 8, "bytes": 16, "metric": estimate, "share": estimate, "meets": True},
        {"ratio": 0.33, "parameters": 7, "bytes": 14, "metric": estimate, "share": estimate, "meets": True},
    ]
    kept = {"metric": "accuracy", "floor": 0.9, "steering_examples": 10, "steering": estimate}
    kept |= {"reported_examples": 11, "reported": estimate, "seed": 0}
    found = Result.model_validate(result().model_dump() | {"curve": points, "kept_metric": kept})
    page = render(report(result=found, request=plain_request(target={"keep_metric": 0.9})))
    assert "Measured models" in page
    assert "11 rows that it did not use" in page
    assert "meets it" in page
    assert sources(page).found == []
    assert sources(page).open == []


def test_changed_answers_after_the_tenth_are_folded() -> None:
    row = ChangedAnswer(line=1, fields={"text": "so so"}, right="bad", dense="bad", slim="good")
    page = render(report(changed=[row] * 12, num_changed=30))
    assert "30 of 20 rows; the first 12 are shown" in page
    assert "<summary>2 more</summary>" in page
    assert page.count("so so") == 12
    assert sources(page).open == []


def test_verification_names_the_class_that_loaded_the_checkpoint() -> None:
    assert "the stock class" in render(report())
    proof = result().verified.model_copy(update={"loader": "PerLayerLlamaForCausalLM"})
    assert "copy of the class in the checkpoint" in render(
        report(result=result().model_copy(update={"verified": proof}))
    )


def test_content_security_policy_allows_the_style_of_the_page() -> None:
    page = render(report())
    assert re.search(r'content="default-src &#39;none&#39;; style-src &#39;sha256-', page)
    assert style_source().strip("'") in page


def test_report_is_served_in_the_accepted_media_type(client: TestClient, job_store: JobStore, storage: Storage) -> None:
    job = job_store.accept(new_record(REQUEST))
    finish(job, job_store, storage, FILES | {"report.json": report(job_id=job.id).model_dump_json().encode()})
    page = client.get(f"/jobs/{job.id}/report", headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert style_source() in page.headers["content-security-policy"]
    assert page.text == render(Report.model_validate(client.get(f"/jobs/{job.id}/report").json()))


def test_report_of_another_version_is_not_rendered_but_its_stored_page_is_named(
    client: TestClient, job_store: JobStore, storage: Storage
) -> None:
    job = job_store.accept(new_record(REQUEST))
    finish(job, job_store, storage)
    answer = client.get(f"/jobs/{job.id}/report", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "report.html" in answer.json()["detail"]


def test_page_opens_from_disk_with_its_style_and_without_errors(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(report()))
    tab = Tab(browser)
    tab.open(path.as_uri())
    assert tab.wait_for("document.querySelector('h1')?.innerText") == "one for sst2"
    assert tab.run("getComputedStyle(document.querySelector('.warnings')).listStyleType") == "none"
    assert tab.complaints() == []
    assert {request["url"] for request in tab.requests()} == {path.as_uri()}


def test_page_of_a_deep_model_fits_the_width_of_a_phone(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(report(layers=layers(64))))
    tab = Tab(browser)
    tab.resize(375, 812)
    tab.open(path.as_uri())
    tab.wait_for("document.querySelector('.cells')")
    assert tab.run("innerWidth") == 375
    assert tab.run("document.documentElement.scrollWidth") <= 375
    sizes = tab.run("[...document.querySelectorAll('.cells')].map(map => [map.scrollWidth, map.clientWidth])")
    assert len(sizes) == 2
    assert all(content <= width for content, width in sizes), "a heat map scrolls sideways"


def test_page_shows_earlier_jobs_and_reused_scores() -> None:
    parent = Ancestor(
        job_id="01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
        model=f"s3://models/{EVIL}",
        revision="v1.2",
        adapter_uri="hf://owner/reviews-lora",
        task="sst2",
        ratio=0.25,
        parameters=DenseSlim(dense=1_500_000, slim=1_200_000),
        widths=[],
    )
    reused = result().model_copy(update={"scores_reused": True})
    page = render(report(lineage=[parent], result=reused))
    assert EVIL not in page
    assert "at revision v1.2 with the adapter hf://owner/reviews-lora: job" in page
    assert "At revision v1.2. With the adapter reviews-lora merged. Slimmed by 1 job before this one." in page
    assert "removed 25.0\N{NO-BREAK SPACE}% for sst2, 1.5 M → 1.2 M parameters" in page
    assert "Unit scores came from an earlier job" in page
    assert "Earlier jobs" not in render(report())


def test_curve_table_has_no_empty_columns() -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    curve = [
        {"ratio": 0.1, "parameters": 9, "bytes": 18, "latency_ms": 2.5, "meets": True},
        {"ratio": 0.3, "parameters": 7, "bytes": 14, "metric": metric, "share": metric, "meets": True},
    ]
    page = render(report(result=result().model_dump() | {"curve": curve}))
    for expected in ('<th scope="col">accuracy</th>', '<th scope="col">latency</th>', "2.5 ms"):
        assert expected in page


def unlabelled() -> Report:
    """Of a job whose evaluation rows have no labels."""
    dumped = result().model_dump()
    for model in ("dense", "slim"):
        dumped["metrics"][model]["judged_by"] = "none"
    return report(result=dumped, own_answers={"given": {"bad": 17, "good": 31}, "left_out": 5})


def test_page_of_rows_without_labels_does_not_say_accuracy() -> None:
    page = render(unlabelled())
    assert "Agreement with the dense model" in page
    assert "accuracy" not in page.lower()
    assert "right label" not in page


def test_page_counts_the_pseudo_labels() -> None:
    page = render(unlabelled())
    assert "bad 17, good 31; 5 rows left out" in page
    assert "own answers" not in render(report())


def test_runtimes_are_shown_with_their_limits() -> None:
    found = [
        {"name": "vllm", "loads": True, "quantisations": ["FP8"], "tensor_parallel": [1, 2]},
        {"name": "sglang", "loads": False, "reason": "it has no architecture for t5"},
    ]
    page = render(report(runtimes=found))
    assert "<dt>vLLM</dt><dd>loads it, quantised too (FP8), on 1 or 2 devices</dd>" in page
    assert "does not load it; it has no architecture for t5" in page


def test_page_shows_latency_by_batch_size_memory_and_seeds() -> None:
    held = DenseSlim(dense=2_000_000, slim=1_500_000)
    speed = Throughput(batch=8, tokens=64, dense=20, slim=25, dense_ms=400.0, slim_ms=320.0, peak_memory_bytes=held)
    page = render(report(throughput=[speed], request=plain_request(method={"criterion": "random", "seed": 4711})))
    assert "Latency, batch 8" in page
    assert "320.0 ms" in page
    assert "Half of the timed passes took 1.9 ms to 2.2 ms with the dense model, and 0.9 ms to 1.1 ms with" in page
    assert "<dt>Seed of the method</dt><dd>4711</dd>" in page
    assert "Peak memory, batch 8<small>of a pass of 8 × 64 tokens, weights included" in page
    assert "<td>2.0 MB</td><td>1.5 MB</td><td>−25.0\N{NO-BREAK SPACE}%</td>" in page
    assert "Peak memory" not in render(report())  # of a version that did not measure it


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"ratio": 0.3}, "30.0 % removed"),
        ({"sweep": [0.4, 0.125]}, "models with 12.5 %, 40.0 % removed"),
        ({"parameters": 1_000_000}, "at most 1,000,000 parameters"),
        ({"bytes": 2_000_000}, "weights of at most 2.0 MB"),
        ({"latency_ms": {"value": 40, "batch": 8}}, "at most 40 ms for 8 × 64 tokens"),
        ({"keep_metric": 0.98}, "the smallest model that keeps 98.0 % of the dense model’s metric"),
        (
            {"keep_metric": 0.9, "bytes": 10},
            "weights of at most 10 B, and the smallest model that keeps 90.0 % of the dense model’s metric",
        ),
    ],
)
def test_page_starts_with_the_target(target: dict[str, Any], words: str) -> None:
    page = render(report(request=plain_request(target=target)))
    assert f"Target: {words}.".replace(" %", "\N{NO-BREAK SPACE}%") in page


def test_accuracies_have_intervals_and_controls_are_compared_with_the_job() -> None:
    random = {"ratio": 0.3, "metrics": result().metrics.slim.model_dump()}
    controls = {"random": [random] * 3, "random_mean": {}, "reverse": random}
    dumped = result().model_dump()
    dumped |= {"ratio": 0.3, "metrics": dumped["metrics"] | {"controls": controls}}
    page = render(report(result=dumped))
    share = "50.0 %<small>40.0 % to 60.0 %</small>".replace(" %", "\N{NO-BREAK SPACE}%")
    assert f"<td>{share}</td><td>{share}</td><td>0.0 points</td>" in page
    own = f"30.0 %</td><td>{share}".replace(" %", "\N{NO-BREAK SPACE}%")
    assert f'<th scope="row">This job’s choice</th><td>{own}</td>' in page
