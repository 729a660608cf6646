"""Jobs of the kind `embedding`, on tiny encoders without a head."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from service.contract.answers.report import Report
from service.contract.errors import VerificationFailed
from service.contract.options import Supervision
from service.models.families.table import FAMILIES
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints, sentence_files
from tests.support.embedded_pairs import COUNT, TASK, pairs
from tests.support.pipeline_jobs import Deployment, write_rows
from tests.support.stock_answers import LAYERS, READERS
from tests.support.tiny_models import encoder
from worker.checkpoints import saving

ENCODERS = [name for name, family in FAMILIES.items() if family.encoder_class]
UNCUT = {"criterion": "attribution", "repair": "none"}
FEW = 8


def silenced_by(model: Any, kept: Mapping[str, Tensor]) -> None:
    """Make the feed-forward neurons of an encoder that are not kept give zeros, for the rest of the life of `model`."""
    family = model.config.model_type
    layers = model.get_submodule(LAYERS[family]["encoder"].removeprefix(f"{model.base_model_prefix}."))
    for site, kept_K in kept.items():
        reader = layers[int(site.split(".")[1])].get_submodule(READERS[family]["ffn"])
        mask = torch.zeros(reader.in_features).index_fill_(0, kept_K.long(), 1.0)
        reader.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask, *args[1:]))


def embeddings(
    directory: Path, texts: Sequence[str], kept: Mapping[str, Tensor] | None = None, pooling: str = "mean_tokens"
) -> Tensor:
    """The embedding of each text by itself, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    silenced_by(model, kept or {})
    with torch.inference_mode():
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    return torch.stack([each[0] if pooling == "cls_token" else each.mean(dim=0) for each in hidden])


def cosines(first_ED: Tensor, second_ED: Tensor) -> list[float]:
    return [float(value) for value in torch.cosine_similarity(first_ED, second_ED, dim=1)]


def texts(column: str = "text") -> list[str]:
    return [row[column] for row in pairs()]


@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_are_those_of_stock_transformers(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"uri": write_rows(deployment.root / "few.jsonl", pairs()[:FEW])}
    request = deployment.request(name, embedded(name, evaluation=few), method=UNCUT)
    planned = plan(request, Access(deployment.storage, "default", local_paths=True))
    result = deployment.run(request)
    directory, dense = deployment.root / "downloaded", deployment.root / name
    deployment.download(directory)
    assert (planned.parameters.dense, planned.parameters.slim) == (result.parameters.dense, result.parameters.slim)
    assert result.verified.loader == FAMILIES[name].encoder_class

    kept = load_file(directory / "kept.safetensors")
    first, second = (texts(column)[:FEW] for column in ("text", "text_b"))
    slim_ED = embeddings(directory / "model", first)
    assert torch.allclose(slim_ED, embeddings(dense, first, kept), atol=1e-5)
    nearness = [
        cosines(slim_ED, embeddings(dense, first)),
        cosines(embeddings(directory / "model", second), embeddings(dense, second)),
    ]
    assert 1 - min(map(min, nearness)) > 1e-6  # of embeddings that a cut has moved
    metrics = result.metrics
    assert metrics.slim.value.value == pytest.approx(sum(map(sum, nearness)) / (2 * FEW), abs=1e-6)
    assert metrics.dense.value.value == pytest.approx(1)
    assert metrics.slim.metric == "cosine_similarity"
    assert metrics.slim.judged_by is Supervision.none

    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert (report.confusion, report.num_changed, report.options["objective"]) == (None, 0, "projection")
    monkeypatch.chdir(directory)
    with redirect_stdout(StringIO()) as printed:
        exec(report.snippet.replace("'...'", repr(texts()[3])), {})
    assert json.loads(printed.getvalue()) == pytest.approx(slim_ED[3].tolist(), abs=1e-5)


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_similarities_of_pairs_are_correlated_with_their_numbers(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], pooling: str
) -> None:
    task = embedded("bert", pooling, metric="spearman")
    result = deployment.run(deployment.request("bert", task, method=UNCUT | {"controls": True}))
    other = deployment.run(deployment.request("bert", task | {"metric": "pearson"}, method=UNCUT))
    deployment.download(deployment.root / "downloaded")
    numbers = [row["label"] for row in pairs()]
    for metrics, more, name in (
        (result.metrics.dense, other.metrics.dense, "bert"),
        (result.metrics.slim, other.metrics.slim, "downloaded/model"),
    ):
        first, second = (
            embeddings(deployment.root / name, texts(column), pooling=pooling) for column in ("text", "text_b")
        )
        assert metrics.value.value == pytest.approx(spearmanr(numbers, cosines(first, second)).statistic, abs=1e-3)
        assert more.value.value == pytest.approx(pearsonr(numbers, cosines(first, second)).statistic, abs=1e-3)
        assert (metrics.mean_squared_error, metrics.constant, metrics.raw) == (None, 0, None)
    assert result.metrics.controls is not None
    assert result.metrics.controls.random_mean.keys() == {"value"}


def test_recall_counts_the_second_texts_among_the_ten_nearest(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]]
) -> None:
    near = [row | {"text_b": row["text"] + " bad"} if number % 2 else row for number, row in enumerate(pairs())]
    rows = [*near, *near[:20]]  # second texts that several rows have count once
    uri = write_rows(deployment.root / "again.jsonl", rows)
    task = embedded(metric="recall_at_10", evaluation={"uri": uri})
    result = deployment.run(deployment.request("bert", task, method=UNCUT))
    candidates = sorted({row["text_b"] for row in rows})
    first_ED, second_ND = (
        normalize(embeddings(deployment.root / "bert", each), dim=1)
        for each in ([row["text"] for row in rows], candidates)
    )
    nearest = (first_ED @ second_ND.T).topk(10, dim=1).indices.tolist()
    found = [row["text_b"] in {candidates[index] for index in ten} for row, ten in zip(rows, nearest, strict=True)]
    assert 0 < sum(found) < len(rows)
    assert result.metrics.dense.value.value == pytest.approx(sum(found) / len(rows))
    assert result.metrics.dense.constant == pytest.approx(10 / len(candidates))
    assert result.metrics.dense.judged_by is Supervision.labels


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_sentence_transformers_loads_what_is_written(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers", reason="no dependency: the other tests pool by transformers alone")
    task = embedded("bert", pooling, template="query: {text}")
    deployment.run(deployment.request("bert", task, method={"repair": "none"}))
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    monkeypatch.chdir(directory)
    with redirect_stdout(StringIO()) as printed:
        exec(report.snippet.replace("'...'", repr(texts()[3])), {})
    expected = normalize(embeddings(directory / "model", [f"query: {texts()[3]}"], pooling=pooling), dim=1)
    assert json.loads(printed.getvalue()) == pytest.approx(expected[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("layout", ["uniform", "per_layer"])
@pytest.mark.parametrize("has_pooler", [True, False])
def test_the_pooler_and_the_files_of_sentence_transformers_stay(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], has_pooler: bool, layout: str
) -> None:
    directory = deployment.root / "bert"
    model: Any = encoder("bert")
    if not has_pooler:
        model.pooler = None
    checkpoints.save(directory, model)
    sentence_files.write(directory, "cls_token")
    method = UNCUT | ({"scope": "global"} if layout == "per_layer" else {})
    more = {"output": {"round_to": 8, "layout": layout}, "method": method}
    deployment.run(deployment.request("bert", embedded(), **more))
    slim = deployment.root / "downloaded/model"
    deployment.download(slim.parent)
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (slim / name).read_bytes() == (directory / name).read_bytes()
    stored = load_file(slim / "model.safetensors")
    poolers = {name for name in stored if "pooler" in name}
    assert poolers == ({"pooler.dense.weight", "pooler.dense.bias"} if has_pooler else set())
    dense = load_file(directory / "model.safetensors")
    assert all(torch.equal(stored[name], dense[name]) for name in poolers)
    [shipped] = json.loads((slim / "task.json").read_bytes())["tasks"]
    assert shipped["embedding"] == {
        "pooling": "cls",
        "normalised": True,
        "lower_case": False,
        "has_files": True,
    }
    assert (shipped["max_tokens"], shipped["decoding"]) == (24, "embedding")
    # What was written is the model of a later job.
    again = deployment.request("bert", embedded(), **more)
    source = again.model.model_copy(update={"uri": slim.as_uri()})
    result = deployment.run(again.model_copy(update={"model": source}))
    assert result.parameters.dense == sum(tensor.numel() for tensor in stored.values())


def test_a_lost_file_of_sentence_transformers_fails_the_verification(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "copy_sentence_files", lambda source, directory: None)
    with pytest.raises(VerificationFailed):
        deployment.run(deployment.request("bert", embedded("bert", "cls_token"), method=UNCUT))


def test_texts_are_cut_and_put_in_lower_case_as_the_files_say(deployment: Deployment) -> None:
    directory = deployment.root / "bert"
    checkpoints.save(directory, encoder("bert"))
    sentence_files.write(directory, max_seq_length=12, do_lower_case=True)
    rows = [{"text": f"  GOOD {'bad ' * row}good "} for row in range(20)]
    source = {"uri": write_rows(deployment.root / "long.jsonl", rows)}
    request = deployment.request("bert", TASK | {"calibration": source, "evaluation": source}, method=UNCUT)
    result = deployment.run(request)
    deployment.download(deployment.root / "downloaded")
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    assert report.task["template"] == "{text}"
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    slim = AutoModel.from_pretrained(deployment.root / "downloaded/model").eval()
    nearness = []
    for row in rows:
        tokens = tokenizer(row["text"].strip().lower(), return_tensors="pt", truncation=True, max_length=12)
        with torch.inference_mode():
            nearness += cosines(*(each(**tokens).last_hidden_state.mean(dim=1) for each in (model, slim)))
    assert result.metrics.slim.value.value == pytest.approx(sum(nearness) / 20, abs=1e-6)


@pytest.mark.parametrize("target", [{"keep_metric": 0.5}, {"sweep": [0.2, 0.4]}])
@pytest.mark.parametrize("metric", ["cosine_similarity", "spearman", "recall_at_10"])
def test_every_search_knows_embeddings(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], metric: str, target: dict[str, Any]
) -> None:
    task = embedded(metric=metric)
    rows = [row | {"text_b": row["text"] + " good", "label": len(row["text"])} for row in pairs()]
    if metric == "spearman":  # numbers that the dense model gives, so that there is something to keep
        first, second = (
            embeddings(deployment.root / "bert", [row[name] for row in rows]) for name in ("text", "text_b")
        )
        rows = [row | {"label": cosine} for row, cosine in zip(rows, cosines(first, second), strict=True)]
    task |= {"evaluation": {"uri": write_rows(deployment.root / "own.jsonl", rows)}}
    result = deployment.run(deployment.request("bert", task, target=target, method=UNCUT))
    assert all(point.metric and point.share for point in result.curve)
    if "keep_metric" in target:
        assert result.kept_metric is not None
        assert (result.kept_metric.metric, result.kept_metric.steering.low >= 0.5) == (metric, True)
        if metric == "recall_at_10":
            assert {point.examples for point in result.curve} == {COUNT // 2}


@pytest.mark.parametrize("criterion", ["surgeon", "attribution", "second_moment", "gisp", "wanda"])
@pytest.mark.parametrize("repair", ["none", "least_squares", "least_squares_layerwise"])
def test_criteria_and_repairs_need_no_labels(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]], criterion: str, repair: str
) -> None:
    method = {"criterion": criterion, "repair": repair}
    result = deployment.run(deployment.request("bert", embedded(), method=method, target={"ratio": 0.5}))
    assert 0.9 < result.metrics.slim.value.value < 1


def test_calibration_rows_with_numbers_give_up_a_fifth(
    deployment: Deployment, embedded: Callable[..., dict[str, Any]]
) -> None:
    task = embedded(evaluation=None, metric="spearman")
    task["calibration"] = {"uri": task["calibration"]["uri"]}
    result = deployment.run(deployment.request("bert", task, method=UNCUT))
    assert result.metrics.slim.examples == COUNT // 5
