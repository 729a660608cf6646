"""Jobs of the kind `token_classification`, on tiny models with a head for the tokens of a text."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from seqeval.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.errors import TaskslimError
from service.contract.options import Supervision
from service.models.families.other_heads import TOKEN_CLASSIFIERS
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from tests.support import checkpoints
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from tests.support.refused_rows import check_last_row_is_refused
from tests.support.stock_answers import silenced
from tests.support.tiny_models import TAGS, WITH_HEAD, WITH_TOKEN_HEAD, token_classifier
from worker.evaluation import label_offsets

KIND = {"kind": "token_classification", "template": None, "labels": None}
PATTERN = (1, 2, 0, 3, 4, 0, 0, 1, 3)  # indices of tags


def words_of(count: int, step: int = 1) -> list[list[str]]:
    return [[WORDS[(row * step + each * each) % 8] for each in range(2 + row % 5)] for row in range(count)]


def tagged_rows(count: int, step: int = 1) -> list[dict[str, Any]]:
    """Rows of two to six words."""
    return [
        {"tokens": words, "tags": [TAGS[PATTERN[(row + place) % len(PATTERN)]] for place in range(len(words))]}
        for row, words in enumerate(words_of(count, step))
    ]


@pytest.fixture
def tagged(deployment: Deployment) -> Callable[..., dict[str, Any]]:
    """Makes the task of a model with a head for tokens; `fields` replace its own."""

    def task(name: str = "bert", **fields: Any) -> dict[str, Any]:
        if not (deployment.root / name).exists():
            checkpoints.save(deployment.root / name, WITH_TOKEN_HEAD[name]())
        sources = {
            part: {"uri": write_rows(deployment.root / f"{part}.jsonl", tagged_rows(count, step))}
            for part, count, step in (("calibration", 24, 1), ("evaluation", 12, 3))
        }
        return KIND | sources | fields

    return task


def outputs(
    directory: Path, rows: Sequence[Sequence[str]], kept: Mapping[str, Tensor] | None = None, *, model: Any = None
) -> list[Tensor]:
    """The outputs (words, classes) of a checkpoint at the first token of every word, by transformers alone."""
    model = (model or AutoModelForTokenClassification.from_pretrained(directory)).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found = []
    with silenced(model, kept or {}), torch.inference_mode():
        for words in rows:
            # The tokens of the words before; the tokenizer never merges tokens of two words.
            before = [len(tokenizer(" ".join(words[:number]))["input_ids"]) - 1 for number in range(len(words))]
            found.append(model(**tokenizer(" ".join(words), return_tensors="pt")).logits[0, before].double())
    return found


def tags_of(scores: Sequence[Tensor], offset_L: Tensor | float = 0.0) -> list[list[str]]:
    return [[TAGS[tag] for tag in (score_WL + offset_L).argmax(dim=1).tolist()] for score_WL in scores]


def fitted(directory: Path, kept: Mapping[str, Tensor]) -> Tensor:
    rows = tagged_rows(24)
    right = torch.tensor([TAGS.index(tag) for row in rows for tag in row["tags"]])
    return label_offsets.fit(torch.cat(outputs(directory, [row["tokens"] for row in rows], kept)), right)


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_tags_are_judged_by_what_stock_transformers_and_seqeval_compute(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"criterion": "attribution", "repair": "none"}
    result = deployment.run(deployment.request(name, tagged(name), method=method))
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    kept = load_file(directory / "kept.safetensors")
    rows = tagged_rows(12, 3)
    words, right = [row["tokens"] for row in rows], [row["tags"] for row in rows]
    for metrics, silent in ((result.metrics.dense, {}), (result.metrics.slim, kept)):
        scores, offset_L = outputs(deployment.root / name, words, silent), fitted(deployment.root / name, silent)
        assert list(metrics.label_offsets.values()) == pytest.approx(offset_L.tolist(), abs=1e-4)
        assert (metrics.metric, metrics.examples, metrics.constant) == ("entity_f1", 12, 0)
        for estimated, given in ((metrics.value, tags_of(scores, offset_L)), (metrics.raw, tags_of(scores))):
            assert estimated is not None
            assert estimated.value == pytest.approx(f1_score(right, given))
    served = outputs(directory / "model", words)  # the bias of the head contains the offsets
    for served_WL, score_WL in zip(served, scores, strict=True):
        torch.testing.assert_close(served_WL, score_WL + offset_L, atol=1e-5, rtol=0)

    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert report.confusion is None
    assert report.options["objective"] == "margin"
    assert [runtime.name for runtime in report.runtimes if runtime.loads] == ["transformers", "onnxruntime"]
    card = (directory / "model/README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "the most frequent\ntag has" in card
    assert "There is no prompt. The words of a text are joined by spaces" in card
    assert "Use exactly this prompt" not in card
    shipped = json.loads((directory / "model/task.json").read_bytes())["tasks"][0]
    assert (shipped["kind"], shipped["decoding"]) == ("token_classification", "most_likely_tags")
    monkeypatch.chdir(directory)
    for text, tags in zip(map(" ".join, words[:4]), tags_of(scores, offset_L), strict=False):
        with redirect_stdout(StringIO()) as printed:
            exec(report.snippet.replace('"A text."', repr(text)), {})
        assert printed.getvalue().split() == [part for pair in zip(text.split(), tags, strict=True) for part in pair]


@pytest.mark.parametrize("name", WITH_TOKEN_HEAD)
def test_a_head_for_tokens_is_cut_to_a_width_for_each_layer_and_loaded_again(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], name: str
) -> None:
    output, method = {"layout": "per_layer", "round_to": 1}, {"scope": "global", "repair": "none"}
    request = deployment.request(name, tagged(name), output=output, method=method)
    planned = plan(request, Access(deployment.storage, "default", local_paths=True))
    assert [runtime.name for runtime in planned.runtimes if runtime.loads] == ["transformers", "onnxruntime"]
    result = deployment.run(request)
    assert result.verified.loader == f"PerLayer{TOKEN_CLASSIFIERS[name]}"
    directory, words = deployment.root / "downloaded", [row["tokens"] for row in tagged_rows(12, 3)]
    deployment.download(directory)
    shipped = AutoModelForTokenClassification.from_pretrained(directory / "model", trust_remote_code=True)
    served = outputs(directory / "model", words, model=shipped)
    masked = outputs(deployment.root / name, words, load_file(directory / "kept.safetensors"))
    offset_L = torch.tensor(list(result.metrics.slim.label_offsets.values()), dtype=torch.float64)
    for served_WL, masked_WL in zip(served, masked, strict=True):
        torch.testing.assert_close(served_WL, masked_WL + offset_L, atol=1e-4, rtol=0)


def test_share_of_right_tags_with_numbers_for_tags(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    numbered = [row | {"tags": [TAGS.index(tag) for tag in row["tags"]]} for row in tagged_rows(24)]
    source = {"uri": write_rows(deployment.root / "numbered.jsonl", numbered)}
    labels = {str(index): tag for index, tag in enumerate(TAGS)}
    task = tagged(labels=labels, calibration=source, evaluation=source, metric="tag_accuracy")
    result = deployment.run(deployment.request("bert", task))
    right = [tag for row in tagged_rows(24) for tag in row["tags"]]
    offset_L = fitted(deployment.root / "bert", {})
    given = list(chain(*tags_of(outputs(deployment.root / "bert", words_of(24)), offset_L)))
    expected = sum(one == other for one, other in zip(given, right, strict=True)) / len(right)
    assert result.metrics.dense.value.value == pytest.approx(expected)
    assert result.metrics.slim.majority == pytest.approx(max(map(right.count, TAGS)) / len(right))


def test_tags_of_the_dense_model_stand_for_labels(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    bare = {"uri": write_rows(deployment.root / "bare.jsonl", [{"tokens": words} for words in words_of(16)])}
    task = tagged(supervision="none", calibration=bare, evaluation=bare, metric="tag_accuracy")
    result = deployment.run(deployment.request("bert", task))
    assert result.metrics.dense.judged_by is Supervision.none
    assert result.metrics.dense.value.value == 1
    deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    given = list(chain(*tags_of(outputs(deployment.root / "bert", words_of(16)))))
    assert report.own_answers is not None
    assert report.own_answers.given == {tag: given.count(tag) for tag in TAGS}


@pytest.mark.parametrize("target", [{"keep_metric": 0.05}, {"sweep": [0.2, 0.4]}, {"ratio": 0.3}])
def test_every_search_and_control_knows_tags(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], target: dict[str, Any]
) -> None:
    more = {"uri": write_rows(deployment.root / "more.jsonl", tagged_rows(60, 3))}
    task, method = tagged(evaluation=more, metric="tag_accuracy"), {"controls": "ratio" in target}
    result = deployment.run(deployment.request("bert", task, target=target, method=method))
    if "ratio" in target:
        assert result.metrics.controls is not None
        assert result.metrics.controls.random_mean.keys() == {"value", "raw"}
    else:
        assert all(point.metric and point.share for point in result.curve)
    if "keep_metric" in target:
        assert result.kept_metric is not None
        assert result.kept_metric.steering.low >= 0.05


def test_a_text_that_is_too_long_loses_its_last_words(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    long = {"tokens": ["film"] * 90, "tags": ["B-PER"] * 90}  # the model has 64 positions
    source = {"uri": write_rows(deployment.root / "long.jsonl", [long, *tagged_rows(20)])}
    result = deployment.run(deployment.request("bert", tagged(calibration=source)))
    assert result.metrics.slim.examples == 12
    deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    assert report.shortened_prompts == 1


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a text": ({"tokens": "good film"}, "must have a list of one or more texts", "source"),
    "no word": ({"tokens": [], "tags": []}, "must have a list of one or more texts", "source"),
    "an empty word": ({"tokens": ["good", " "]}, "has an empty text: leave it out", "source"),
    "no words": ({}, "has no value in the column 'tokens'", "source"),
    "no tags": ({"tokens": ["good", "film"], "tags": None}, "has no value in the column 'tags'", "source"),
    "too few tags": (
        {"tokens": ["good", "film"], "tags": ["O"]},
        "has 2 words in 'tokens' and 1 in 'tags': give a tag for each word",
        "source",
    ),
    "a tag that the head lacks": (
        {"tokens": ["good"], "tags": ["B-ORG"]},
        "'B-ORG', which the model's head lacks",
        "task.labels",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("place", ["file", "inline"])
def test_rows_without_a_tag_for_each_word_are_refused(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]], case: str, place: str
) -> None:
    columns, message, param = BAD[case]
    rows = [*tagged_rows(4), {"tags": ["O", "O"]} | columns]
    check_last_row_is_refused(deployment, tagged, rows, place, message, param)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str, str]] = {
    "one label for a row": (
        WITH_TOKEN_HEAD["bert"],
        {"kind": None, "template": "{text}", "labels": {"0": "O", "1": "B-PER"}},
        "task.kind",
        "send the kind `token_classification`",
    ),
    "a head for sequences": (WITH_HEAD["bert"], {}, "task.kind", "send the kind `classification`"),
    "a template": (WITH_TOKEN_HEAD["bert"], {"template": "{tokens}"}, "task.template", "leave `template` out"),
    "a class that the head lacks": (
        WITH_TOKEN_HEAD["bert"],
        {"labels": {"B-PER": "B-PER", "B-ORG": "B-ORG"}},
        "task.labels",
        "which the model's head does not have",
    ),
    "classes that mark no entities": (
        lambda: token_classifier("bert", id2label={0: "O", 1: "NOUN"}),
        {},
        "task.metric",
        "send the metric `tag_accuracy`",
    ),
    "rows without an entity": (
        WITH_TOKEN_HEAD["bert"],
        {"calibration": {"rows": [{"tokens": ["good"], "tags": ["O"]}] * 8}},
        "task.calibration.rows",
        "give rows with entities",
    ),
    "a metric of labels": (WITH_TOKEN_HEAD["bert"], {"metric": "accuracy"}, "task.metric", "give one of entity_f1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_and_worker_refuse_alike(deployment: Deployment, case: str) -> None:
    model, fields, param, message = REFUSED[case]
    checkpoints.save(deployment.root / "bert", model())
    rows = [{"tokens": words, "tags": ["B-PER"] * len(words), "text": words[0], "label": "0"} for words in words_of(8)]
    source = {"uri": write_rows(deployment.root / "few.jsonl", rows)}
    request = deployment.request("bert", KIND | {"calibration": source} | fields)
    access = Access(deployment.storage, "default", local_paths=True)
    with pytest.raises(TaskslimError, match=message) as refused:
        plan(request, access)
    assert refused.value.param == param
    stored, files = take_rows(request, "job")
    for dataset, lines in files.items():
        deployment.storage.put_bytes(lines, dataset_key("default", dataset))
    with pytest.raises(TaskslimError, match=message) as refused:
        deployment.run(stored)
    assert refused.value.param == param


def test_a_pooler_that_a_head_for_tokens_does_not_read_is_left_out(
    deployment: Deployment, tagged: Callable[..., dict[str, Any]]
) -> None:
    task = tagged()
    pooler = {name: tensor for name, tensor in WITH_HEAD["bert"]().state_dict().items() if "pooler" in name}
    weights = deployment.root / "bert/model.safetensors"
    save_file(load_file(weights) | pooler, weights, {"format": "pt"})
    result = deployment.run(deployment.request("bert", task))
    assert result.metrics.slim.examples == 12
