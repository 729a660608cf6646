"""The pipeline on tiny models: the artifacts of a job, and the errors of bad inputs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.answers.resources import Manifest
from service.contract.answers.result import Metrics, Result
from service.contract.errors import (
    InvalidData,
    InvalidLabels,
    InvalidModel,
    InvalidRequest,
    InvalidTemplate,
    TargetUnreachable,
    TaskslimError,
    UnknownLabel,
    UnsupportedFamily,
    UnsupportedUnit,
)
from service.jobs.leases import LeaseLost
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key, manifest_key
from service.storage.object_store import digest_file
from tests.support import checkpoints
from tests.support.pipeline_jobs import LABELS, WORDS, Deployment, Recorder
from tests.support.tiny_models import FFN_WIDTH, causal, logits

OPTIONAL = (Stage.synthesise, Stage.search, Stage.repair, Stage.recover, Stage.controls, Stage.export, Stage.quantise)
STAGES = [stage for stage in Stage if stage not in OPTIONAL]


@dataclass
class Finished:
    """A job that succeeded, and its downloaded files."""

    deployment: Deployment
    progress: Recorder
    result: Result
    manifest: Manifest
    directory: Path

    @property
    def kept(self) -> dict[str, Tensor]:
        return load_file(self.directory / "kept.safetensors")


# Nothing but a cut, so that the slim weights can be held against the dense ones.
PLAIN = {"criterion": "attribution", "sign": "absolute", "repair": "none"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    deployment, progress = Deployment(tmp_path_factory.mktemp("job")), Recorder()
    result = deployment.run(deployment.request(method=PLAIN), progress, fresh_process=True)
    directory = deployment.root / "downloaded"
    return Finished(deployment, progress, result, deployment.download(directory), directory)


def test_job_stores_a_smaller_model_that_transformers_loads(finished: Finished) -> None:
    result, directory = finished.result, finished.directory / "model"
    model = AutoModelForCausalLM.from_pretrained(directory)
    AutoTokenizer.from_pretrained(directory)
    assert model.config.intermediate_size == result.widths[0].slim == 32
    assert model.num_parameters() == result.parameters.slim < result.parameters.dense
    assert result.bytes.slim == (directory / "model.safetensors").stat().st_size < result.bytes.dense
    assert result.ratio == pytest.approx(1 - 32 / FFN_WIDTH)
    assert result.verified.loader == "LlamaForCausalLM"
    latency = result.latency_ms
    assert latency.dense_quartiles is not None
    assert latency.dense_quartiles.first <= latency.dense <= latency.dense_quartiles.third
    assert latency.slim_quartiles is not None
    assert latency.slim_quartiles.first <= latency.slim <= latency.slim_quartiles.third
    uploaded = AutoModelForCausalLM.from_pretrained(finished.deployment.scratch / "output/model")
    assert torch.equal(logits(model.eval()), logits(uploaded.eval()))


EVERY_OPTION: dict[str, dict[str, Any]] = {
    "llama": {"criterion": "gisp", "units": ["ffn", "heads", "layers"], "scope": "global", "steps": 2},
    "t5": {
        "units": ["ffn", "heads", "head_dims"],
        "scope": "global",
        "repair": "least_squares",
        "criterion": "second_moment",
    },
    "olmo2": {
        "units": ["ffn", "layers"],
        "scope": "global",
        "repair": "least_squares_layerwise",
        "criterion": "surgeon",
    },
    "gpt2": {"units": ["ffn"], "repair": "bias", "criterion": "flap", "normalisation": "mean"},
}


@pytest.mark.parametrize("family", EVERY_OPTION)
def test_every_unit_step_and_repair_makes_a_verified_model(deployment: Deployment, family: str) -> None:
    method, progress = EVERY_OPTION[family], Recorder()
    result = deployment.run(deployment.request(family, method=method), progress)
    assert result.parameters.slim < result.parameters.dense
    assert 0 < result.ratio < 0.6
    assert {width.unit.value for width in result.widths} == set(method["units"])
    assert all(width.slim <= width.dense for width in result.widths)
    assert progress.stages.count(Stage.repair) == 1
    measured = [(done, total) for stage, done, total, _ in progress.advances if stage is Stage.attribute]
    assert measured[-1] == (24 * method.get("steps", 1),) * 2


PER_LAYER: dict[str, Any] = {
    "method": {"scope": "global", "repair": "least_squares", "normalisation": "mean"},
    "output": {"round_to": 1, "layout": "per_layer"},
}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_per_layer_model_is_verified_and_slimmed_again(deployment: Deployment, family: str) -> None:
    units = ["ffn", "heads"]
    asked = PER_LAYER | {"method": PER_LAYER["method"] | {"units": units}}
    result = deployment.run(deployment.request(family, **asked))
    assert result.verified.loader.startswith("PerLayer")
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance
    assert result.parameters.slim < result.parameters.dense
    assert any(width.per_layer for width in result.widths)
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert "per_layer_widths" in {warning.code for warning in report.warnings}
    assert "trust_remote_code=True" in report.snippet
    (directory / "model").rename(deployment.root / "again")
    with pytest.raises(InvalidRequest, match="per_layer"):
        deployment.run(deployment.request("again"))
    again = deployment.run(deployment.request("again", **PER_LAYER))
    assert again.parameters.dense == result.parameters.slim > again.parameters.slim
    assert again.verified.max_abs_logit_difference <= again.verified.tolerance


def test_per_layer_widths_are_refused_with_the_scope_layer(deployment: Deployment) -> None:
    with pytest.raises(ValidationError, match=r"method.scope: global"):
        deployment.request(output={"layout": "per_layer"})


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ({"criterion": "wanda", "units": ["layers"]}, "unsupported_unit"),
        ({"repair": "bias", "criterion": "random"}, "invalid_request"),
    ],
)
def test_unsupported_units_and_repairs_are_refused(deployment: Deployment, method: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        deployment.run(deployment.request("qwen2", method=method))
    assert refused.value.code == code


def test_heads_of_a_phi3_with_long_rotary_positions_are_refused_once_the_model_is_loaded(
    deployment: Deployment,
) -> None:
    factors = [1.0, 1.1, 1.2, 1.3]
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": factors, "short_factor": factors}
    model = causal("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    model.save_pretrained(deployment.root / "phi3")
    checkpoints.tokenizer().save_pretrained(deployment.root / "phi3")
    progress = Recorder()
    with pytest.raises(UnsupportedUnit, match="remove other units than heads"):
        deployment.run(deployment.request("phi3", method={"units": ["heads"]}), progress)
    assert progress.stages[-1] is Stage.load
    result = deployment.run(deployment.request("phi3", method={"units": ["ffn"]}))
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


def test_a_gemma_3_without_a_layer_is_promised_where_its_sliding_pattern_holds(deployment: Deployment) -> None:
    model = causal("gemma3_text", num_hidden_layers=12, query_pre_attn_scalar=8)
    model.save_pretrained(deployment.root / "gemma3_text")
    checkpoints.tokenizer().save_pretrained(deployment.root / "gemma3_text")
    deployment.run(deployment.request("gemma3_text", method={"units": ["layers"]}, target={"ratio": 0.1}))
    deployment.download(deployment.root / "downloaded")
    types = json.loads((deployment.root / "downloaded/model/config.json").read_text())["layer_types"]
    report = Report.model_validate_json((deployment.root / "downloaded/report.json").read_bytes())
    holds = [number for number, kind in enumerate(types) if kind == "full_attention"] == [5]
    assert len(types) == 11
    loading = {runtime.name for runtime in report.runtimes if runtime.loads}
    assert loading == {"transformers", "vllm", "sglang", "onnxruntime"} | ({"llama.cpp", "mlx-lm"} if holds else set())


def test_latency_target_with_too_many_tokens_is_refused_once_the_model_is_loaded(deployment: Deployment) -> None:
    progress = Recorder()
    with pytest.raises(InvalidRequest, match="64 tokens at most") as refused:
        deployment.run(deployment.request(target={"latency_ms": {"value": 1, "tokens": 65}}), progress)
    assert refused.value.param == "target.latency_ms.tokens"
    assert progress.stages[-1] is Stage.load


def test_manifest_has_size_and_digest_of_every_file(finished: Finished) -> None:
    names = {file.name for file in finished.manifest.files}
    assert {"report.json", "kept.safetensors", "model/config.json", "model/model.safetensors"} < names
    for file in finished.manifest.files:
        assert digest_file(finished.directory / file.name) == file.sha256
        assert (finished.directory / file.name).stat().st_size == file.size


def test_slim_weights_are_the_kept_rows_of_the_dense_weights(finished: Finished) -> None:
    kept = finished.kept
    assert sorted(kept) == ["decoder.0.ffn", "decoder.1.ffn"]
    directories = (finished.deployment.root / "llama", finished.directory / "model")
    dense, slim = (load_file(directory / "model.safetensors") for directory in directories)
    for layer in range(2):
        rows = kept[f"decoder.{layer}.ffn"]
        up, down = (f"model.layers.{layer}.mlp.{name}_proj.weight" for name in ("up", "down"))
        assert torch.equal(slim[up], dense[up][rows])
        assert torch.equal(slim[down], dense[down][:, rows])


def test_report_has_request_result_and_digests(finished: Finished) -> None:
    report = Report.model_validate_json((finished.directory / "report.json").read_bytes())
    assert report.result == finished.result
    assert report.job_id == finished.deployment.job.id
    assert report.family == "llama"
    assert report.calibration_examples == 24
    assert report.result.metrics.dense.examples == 6
    assert report.options["objective"] == "margin"
    assert report.options["sign"] == "absolute"
    assert report.task["label_prefix"] == " "
    assert [timing.stage for timing in report.timings] == STAGES[:-1]
    assert set(report.digests) == {"model", "calibration", "evaluation", "template"}


def test_report_has_the_label_offsets_of_both_models(finished: Finished) -> None:
    dense, slim = finished.result.metrics.dense, finished.result.metrics.slim
    shipped = json.loads((finished.directory / "model" / "task.json").read_bytes())["tasks"][0]["label_offsets"]
    assert slim.label_offsets == shipped
    assert dense.label_offsets.keys() == shipped.keys() == {*LABELS}
    assert dense.label_offsets != slim.label_offsets


def test_snippet_of_the_report_loads_the_model(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report.model_validate_json((finished.directory / "report.json").read_bytes())
    monkeypatch.chdir(finished.directory)
    names: dict[str, Any] = {}
    exec(report.snippet, names)
    assert names["model"].config.intermediate_size == 32


def test_progress_counts_examples_and_bytes_of_every_stage(finished: Finished) -> None:
    last = {stage: (done, total, unit) for stage, done, total, unit in finished.progress.advances}
    assert finished.progress.stages == STAGES
    assert last[Stage.evaluate_dense] == last[Stage.evaluate_slim] == (24 + 6, 24 + 6, "examples")
    assert last[Stage.attribute] == (24, 24, "examples")
    assert last[Stage.verify] == (0, 1, "checkpoints")
    done, total, unit = last[Stage.upload]
    assert (done, unit) == (total, "bytes")


@pytest.mark.parametrize("stage", [Stage.attribute, Stage.verify, Stage.upload])
def test_attempt_ends_where_progress_raises(deployment: Deployment, stage: Stage) -> None:
    with pytest.raises(InterruptedError):
        deployment.run(deployment.request(), Recorder(end_in=stage))
    assert not deployment.storage.exists(manifest_key("default", deployment.job.id))


def test_second_manifest_of_a_job_is_refused(deployment: Deployment) -> None:
    class Rival(Recorder):
        """Stores the manifest of another attempt while this one uploads."""

        def stage(self, stage: Stage) -> None:
            super().stage(stage)
            if stage is Stage.upload:
                deployment.storage.put_bytes(b"{}", manifest_key("default", deployment.job.id))

    with pytest.raises(LeaseLost):
        deployment.run(deployment.request(), Rival())


def test_kept_units_do_not_depend_on_the_batches(deployment: Deployment, finished: Finished) -> None:
    deployment.tokens_per_batch = 1
    deployment.run(deployment.request(method=PLAIN))
    deployment.download(deployment.root / "downloaded")
    alone = load_file(deployment.root / "downloaded/kept.safetensors")
    assert all(torch.equal(finished.kept[site], alone[site]) for site in alone)


def test_both_stacks_of_an_encoder_decoder_are_cut(deployment: Deployment) -> None:
    result = deployment.run(deployment.request("bart"))
    assert {width.stack: width.slim for width in result.widths} == {"encoder": 32, "decoder": 32}
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


@pytest.mark.parametrize(
    ("model", "loader"),
    [("bert", "BertForSequenceClassification"), ("llama_classifier", "LlamaForSequenceClassification")],
)
def test_classifier_is_slimmed_by_its_classes(deployment: Deployment, model: str, loader: str) -> None:
    result = deployment.run(
        deployment.request(model, task={"template": "{text}", "labels": {"0": "LABEL_0", "1": "LABEL_2"}})
    )
    assert result.verified.loader == loader
    assert result.metrics.slim.metric == "accuracy"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_generation_task_is_measured_by_its_targets(deployment: Deployment, family: str) -> None:
    task = {"kind": "generation", "labels": None}
    metrics = deployment.run(deployment.request(family, task)).metrics.slim
    assert (metrics.metric, metrics.raw) == ("exact_match", None)
    assert metrics.token_log_likelihood is not None
    assert metrics.token_log_likelihood < 0
    with pytest.raises(InvalidRequest, match="does not have the objective `margin`"):
        deployment.run(deployment.request(family, task, method={"objective": "margin"}))


def test_rows_may_have_several_right_texts(deployment: Deployment) -> None:
    def measured(*targets: Any) -> Metrics:
        rows = [{"text": f"good {word}", "target": target} for word, target in zip(WORDS, targets * 8, strict=False)]
        source = {"rows": rows}
        task = {"kind": "generation", "labels": None, "metric": "chrf", "calibration": source, "evaluation": source}
        stored, files = take_rows(deployment.request(task=task), "job")
        for dataset, lines in files.items():
            deployment.storage.put_bytes(lines, dataset_key("default", dataset))
        return deployment.run(stored).metrics.dense

    alone = [measured("good film"), measured("bad plot dog fox lazy quick")]
    several = measured(["good film", "bad plot dog fox lazy quick"], ["good film"] * 3)
    assert several.token_log_likelihood == alone[0].token_log_likelihood
    assert several.value.value > alone[0].value.value


def test_observed_tasks_are_measured_with_both_models(deployment: Deployment) -> None:
    asked = {"labels": {"1": "lazy", "0": "quick"}, "template": "{text} {text}:"}
    task = {"name": "reversed", "evaluation": {"uri": deployment.rows(10, "other")}} | asked
    writing = {"kind": "generation", "name": "writing", "template": "{text}:", "evaluation": task["evaluation"]}
    progress = Recorder()
    metrics = deployment.run(deployment.request(observe=[task, writing]), progress).metrics
    alone = deployment.run(deployment.request(task=asked | {"evaluation": task["evaluation"]})).metrics
    assert list(metrics.observed) == ["reversed", "writing"]
    assert metrics.observed["reversed"].dense.raw == metrics.observed["reversed"].dense.value == alone.dense.raw
    assert metrics.observed["writing"].slim.metric == "exact_match"
    assert metrics.dense.examples == 6
    counted = [(done, total) for stage, done, total, _ in progress.advances if stage is Stage.evaluate_slim]
    assert counted == sorted(counted)
    assert counted[-1] == (24 + 6 + 10 + 2 * 10,) * 2  # the calibration rows are for the label offsets


def test_error_of_an_observed_task_names_its_place_in_the_request(deployment: Deployment) -> None:
    good = {"name": "fine", "template": "{text}:", "labels": LABELS, "evaluation": {"uri": deployment.rows(10)}}
    for bad, param in (
        ({"evaluation": {"uri": "file:///no/such.jsonl"}}, "observe.1.evaluation.uri"),
        ({"labels": {"1": "goodé", "0": "good"}}, "observe.1.labels"),
    ):
        with pytest.raises(TaskslimError) as caught:
            deployment.run(deployment.request(observe=[good, good | {"name": "bad"} | bad]))
        assert caught.value.param == param


BAD: dict[str, tuple[dict[str, Any], type[TaskslimError], str]] = {
    "labels alike": ({"task": {"labels": {"1": "goodé", "0": "good"}}}, InvalidLabels, "task.labels"),
    "unnamed label": ({"task": {"labels": {"1": "good", "2": "bad"}}}, UnknownLabel, "task.calibration.uri"),
    "no rows": ({"task": {"calibration": {"uri": "EMPTY"}}}, InvalidData, "task.calibration.uri"),
    "broken rows": ({"task": {"evaluation": {"uri": "BROKEN"}}}, InvalidData, "task.evaluation.uri"),
    "no such rows": ({"task": {"calibration": {"uri": "file:///no/such.jsonl"}}}, InvalidData, "task.calibration.uri"),
    "no such column": ({"task": {"template": "{title}:"}}, InvalidTemplate, "task.template"),
    "long template": ({"task": {"template": "good bad " * 64 + "{text}"}}, InvalidTemplate, "task.template"),
    "no such model": ({"model": {"uri": "file:///no/such/model"}}, InvalidModel, "model.uri"),
    "unknown family": ({"model": {"uri": "FAMILY"}}, UnsupportedFamily, "model.uri"),
    "no width left": (
        {"target": {"ratio": 0.95}, "output": {"round_to": 32}},
        TargetUnreachable,
        "target.ratio",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_fails_with_its_code_and_field(deployment: Deployment, case: str) -> None:
    fields, error, param = BAD[case]
    (deployment.root / "empty.jsonl").write_text("\n")
    (deployment.root / "broken.jsonl").write_text('{"text": "good", "label": 1}\n{"text":')
    (deployment.root / "family").mkdir()
    (deployment.root / "family/config.json").write_text('{"model_type": "mamba"}')
    (deployment.root / "family/model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    text = json.dumps(fields)
    for name, file in (("EMPTY", "empty.jsonl"), ("BROKEN", "broken.jsonl"), ("FAMILY", "family")):
        text = text.replace(name, (deployment.root / file).as_uri())
    with pytest.raises(error) as caught:
        deployment.run(deployment.request(**json.loads(text)))
    assert type(caught.value) is error
    assert caught.value.param == param
    assert deployment.storage.list("") == []
