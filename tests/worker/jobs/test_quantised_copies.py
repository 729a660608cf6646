"""Jobs that store quantised copies: four models side by side, how each is used, and what a damaged copy leads to."""

import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import ExportFailed, UnsupportedFormat
from service.contract.options import Precision
from service.reports.formatting import interval, size
from tests.support import checkpoints
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import causal
from worker import pipeline
from worker.checkpoints.loading import LoadedModel
from worker.quantisation import files, precisions
from worker.stages.task_model import load

PRECISIONS = ["w8a8", "w4a16"]


def deployment(root: Path) -> Deployment:
    """One with a Llama whose rows are long enough for groups of weights."""
    checkpoints.save(root / "llama", causal("llama", hidden_size=64, intermediate_size=256))
    return Deployment(root)


def quantised(root: Path, **fields: Any) -> tuple[Deployment, Result]:
    found = deployment(root)
    output = {"round_to": 32, "quantise": PRECISIONS} | fields.pop("output", {})
    return found, found.run(found.request(output=output, **fields))


@dataclass(frozen=True)
class Downloaded:
    """The result of a job, its files, and the texts and labels of its evaluation rows."""

    result: Result
    files: Path
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Downloaded:
    """A job with copies, whose prompts are cut to two words."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("copies")
    found = deployment(root)
    evaluation = found.rows(20, "evaluation")
    task = {"max_words": 2, "evaluation": {"uri": evaluation}}
    result = found.run(found.request(task=task, output={"round_to": 32, "quantise": PRECISIONS}))
    found.download(root / "files")
    rows = [json.loads(line) for line in Path(evaluation.removeprefix("file://")).read_text().splitlines()]
    return Downloaded(result, root / "files", rows)


def test_a_job_has_four_models_side_by_side(downloaded: Downloaded) -> None:
    result = downloaded.result
    assert [each.precision for each in result.quantised] == PRECISIONS
    for each in result.quantised:
        examples = {each.metrics.dense.examples, each.metrics.slim.examples, result.metrics.slim.examples}
        assert len(examples) == 1
        assert each.bytes.slim < each.bytes.dense
        assert each.bytes.slim < result.bytes.slim
        assert each.bytes.dense < result.bytes.dense
        assert {"model.safetensors", "config.json", "task.json"} <= set(_names(downloaded.files / each.directory))
        task = json.loads((downloaded.files / each.directory / "task.json").read_text())["tasks"][0]
        assert task["label_offsets"] == pytest.approx(each.metrics.slim.label_offsets)
    assert result.quantised[1].bytes.slim < result.quantised[0].bytes.slim
    assert result.quantised[1].group_size == 32
    report = Report.model_validate_json((downloaded.files / "report.json").read_text())
    assert report.result.quantised == result.quantised
    assert "groups of 32" in (downloaded.files / "report.html").read_text()


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_snippet_of_a_copy_gives_the_answers_that_were_measured(
    downloaded: Downloaded, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [copy] = [each for each in downloaded.result.quantised if each.precision == precision]
    monkeypatch.chdir(downloaded.files)
    load, blank, ask = copy.snippet.partition("\nrow = {'text': '...'}\n")
    assert blank
    names: dict[str, Any] = {}
    exec(load, names)
    given = [_printed(ask, names | {"row": {"text": row["text"]}}) for row in downloaded.rows]
    right = sum(answer == str(row["label"]) for answer, row in zip(given, downloaded.rows, strict=True))
    assert copy.metrics.slim.value.value == pytest.approx(right / len(given))
    names["task"]["label_offsets"] = dict.fromkeys(names["task"]["labels"], 0.0)
    raw = [_printed(ask, names | {"row": {"text": row["text"]}}) for row in downloaded.rows]
    assert raw != given, "the rows do not show whether label offsets are added"


def _printed(code: str, names: dict[str, Any]) -> str:
    with redirect_stdout(StringIO()) as printed:
        exec(code, names)
    return printed.getvalue().strip()


def test_card_describes_the_copies(downloaded: Downloaded) -> None:
    text = (downloaded.files / "model/README.md").read_text()
    for copy in downloaded.result.quantised:
        value = interval(copy.metrics.slim.value)
        assert re.search(rf"\| {copy.precision} \| `{copy.directory}/` \| .* \| {size(copy.bytes.slim)} \| ", text)
        assert f" | {value} |" in text
        assert f"```python\n{copy.snippet.strip()}\n```" in text
        assert f"`{copy.command}`" in text
    assert "a scale for each 32 weights of a row" in text


def test_the_dense_model_of_a_search_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search cuts copies, so that the figures of its quantised dense model are those of one that is loaded anew."""
    loads: list[Path] = []

    def counted(context: Any, model: Path, adapter: Path | None) -> LoadedModel:
        loads.append(model)
        return load(context, model, adapter)

    monkeypatch.setattr(pipeline, "load", counted)
    found, copies = deployment(tmp_path), {}
    for target in ({"ratio": 0.3}, {"sweep": [0.1, 0.3]}):
        before = len(loads)
        result = found.run(found.request(target=target, output={"round_to": 32, "quantise": PRECISIONS}))
        copies[len(loads) - before] = result.quantised
    assert copies.keys() == {2, 1}
    again, same = ([(each.metrics.dense, each.bytes.dense) for each in copies[count]] for count in (2, 1))
    assert same == again


def test_a_search_for_a_floor_judges_the_quantised_model(tmp_path: Path) -> None:
    """What the search reports to keep is what the quantised slim model keeps."""
    fields: dict[str, Any] = {"target": {"keep_metric": 0.5}, "method": {"criterion": "attribution", "repair": "none"}}
    task: dict[str, Any] = {"kind": "generation", "metric": "token_probability", "labels": None}
    job = deployment(tmp_path)
    task |= {"evaluation": {"uri": job.rows(12, "evaluation")}}
    plain, judged = (
        job.run(job.request(task=dict(task), output={"round_to": 32, "quantise": precisions}, **fields))
        for precisions in ([], ["w4a16"])
    )
    [copy], kept = judged.quantised, judged.kept_metric
    assert kept is not None
    assert copy.metrics.slim.examples == kept.reported_examples == 6
    assert kept.reported.value == pytest.approx(copy.metrics.slim.value.value / judged.metrics.dense.value.value)
    metrics = {point.parameters: point.metric for point in plain.curve}
    compared = [point for point in judged.curve if point.parameters in metrics]
    assert compared
    assert all(point.metric != metrics[point.parameters] for point in compared)


def test_a_damaged_copy_fails_the_job_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = files.write

    def damaged(checkpoint: Path, directory: Path, *args: Any, **options: Any) -> None:
        write(checkpoint, directory, *args, **options)
        tensors = load_file(directory / "model.safetensors")
        tensors["model.layers.1.mlp.down_proj.weight_scale"] *= 1.1
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(files, "write", damaged)
    found = deployment(tmp_path)
    with pytest.raises(ExportFailed, match="the logits of model-w8a8 differ by"):
        found.run(found.request(output={"round_to": 32, "quantise": ["w8a8"]}))
    assert not found.storage.list("")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = precisions.PRECISIONS[Precision.int8]
    absent = replace(row, storage=replace(row.storage, library="of_another_world"))
    monkeypatch.setitem(precisions.PRECISIONS, Precision.int8, absent)
    found = deployment(tmp_path)
    with pytest.raises(UnsupportedFormat, match=r"lacks of_another_world: install `taskslim\[worker,quantise\]`"):
        found.run(found.request(output={"round_to": 32, "quantise": ["int8"]}))
