"""Models and adapters that are refused by their files and their config.json."""

from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from service.api.openapi.examples import INLINE
from service.contract.errors import (
    InvalidLabels,
    InvalidModel,
    InvalidRequest,
    UnknownLabel,
    UnsupportedFamily,
    UnsupportedUnit,
)
from service.contract.request.job_request import JobRequest
from service.planning.admission import check_request
from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support.job_requests import model_directory, request_body
from tests.support.planning import refuse
from worker.sources.validation import check_checkpoint


def test_a_missing_model_is_refused(tmp_path: Path, access: Access) -> None:
    body = INLINE | {"model": {"uri": (tmp_path / "nothing").as_uri()}}
    assert "does not exist" in refuse(body, access, InvalidModel, "model.uri")


def test_a_model_in_a_pickle_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", ("pytorch_model.bin",))
    assert "safetensors" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_directory_without_weights_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", ())
    assert "neither" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", auto_map={"AutoModel": "evil.Model"})
    assert "auto_map" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


@pytest.mark.parametrize("model_type", ["mamba", None, 7, ["llama"]])
def test_an_unsupported_family_is_refused(tmp_path: Path, access: Access, model_type: object) -> None:
    uri = model_directory(tmp_path / "m", model_type=model_type)
    assert "llama" in refuse(INLINE | {"model": {"uri": uri}}, access, UnsupportedFamily, "model.uri")


@pytest.mark.parametrize("config", ["", "[", "[]", '"text"', "[" * 100_000])
def test_a_damaged_config_is_refused(tmp_path: Path, access: Access, config: str) -> None:
    uri = model_directory(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(config)
    refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_an_adapter_without_safetensors_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.bin").touch()
    body = INLINE | {"model": {"uri": uri, "adapter_uri": (tmp_path / "adapter").as_uri()}}
    assert "adapter_model.safetensors" in refuse(body, access, InvalidModel, "model.adapter_uri")


def test_an_adapter_of_another_type_than_lora_is_refused(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    body["model"] |= {"adapter_uri": (tmp_path / "adapter").as_uri()}
    assert "only LoRA" in refuse(body, access, InvalidModel, "model.adapter_uri")
    (tmp_path / "adapter" / "adapter_config.json").write_text("[]")
    assert "not a JSON object" in refuse(body, access, InvalidModel, "model.adapter_uri")


def test_safetensors_without_a_config_are_refused(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path)
    (tmp_path / "model" / "config.json").unlink()
    assert "no config.json" in refuse(body, access, InvalidModel, "model.uri")


def test_one_of_several_gguf_files_must_be_named(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", ("a.gguf", "b.gguf"))
    assert "name one of them" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


HEAD: dict[str, Any] = {"model_type": "bert", "id2label": {"0": "delivery", "1": "refund"}}


def test_labels_that_the_classification_head_lacks_are_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", **HEAD)
    rows = {"rows": [{"text": "x", "label": "negative"}, {"text": "y", "label": "positive"}] * 2}
    body = INLINE | {"model": {"uri": uri}, "task": {"preset": "sst2", "calibration": rows}}
    assert "which the model's head does not have" in refuse(body, access, InvalidLabels, "task.labels")
    labels = {"negative": "delivery", "positive": "refund"}
    check_request(JobRequest.model_validate(body | {"task": body["task"] | {"labels": labels}}), access)
    observed = [{"preset": "sst2", "evaluation": rows}]
    body |= {"task": body["task"] | {"labels": labels}, "observe": observed}
    refuse(body, access, InvalidLabels, "observe.0.labels")


def test_a_generation_task_is_refused_for_a_classification_head(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", **HEAD)
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x", "target": "y"}] * 2}}
    refuse(INLINE | {"model": {"uri": uri}, "task": task}, access, InvalidRequest, "task.kind")


def test_a_latency_of_more_tokens_than_the_model_takes_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", max_position_embeddings=64)
    body = INLINE | {"model": {"uri": uri}, "target": {"latency_ms": {"value": 40, "tokens": 65}}}
    assert "64 tokens at most" in refuse(body, access, InvalidRequest, "target.latency_ms.tokens")


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ({"model_type": "roberta", "max_position_embeddings": 66}, 64),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 66, "pad_token_id": 2}, 63),
        ({"model_type": "deberta-v2", "max_position_embeddings": 64}, 64),
    ],
    ids=["gpt2", "roberta", "roberta without padding", "xlm-roberta", "deberta-v2"],
)
def test_each_family_counts_its_positions(tmp_path: Path, access: Access, config: dict[str, Any], most: int) -> None:
    names = dict(enumerate(INLINE["task"]["labels"].values()))
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m", id2label=names, **config)}}
    too_many = body | {"target": {"latency_ms": {"value": 40, "tokens": most + 1}}}
    assert f"{most} tokens at most" in refuse(too_many, access, InvalidRequest, "target.latency_ms.tokens")
    enough = body | {"target": {"latency_ms": {"value": 40, "tokens": most}}}
    check_request(JobRequest.model_validate(enough), access)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "n_positions": 64},
        {"model_type": "deberta-v2", "max_position_embeddings": 64, "position_biased_input": False},
    ],
    ids=["t5", "deberta-v2"],
)
def test_relative_positions_limit_no_latency(tmp_path: Path, access: Access, config: dict[str, Any]) -> None:
    names = dict(enumerate(INLINE["task"]["labels"].values()))
    uri = model_directory(tmp_path / "m", id2label=names, **config)
    body = INLINE | {"model": {"uri": uri}, "target": {"latency_ms": {"value": 40, "tokens": 65}}}
    check_request(JobRequest.model_validate(body), access)


@pytest.mark.parametrize("uri", ["ftp://host/m", "relative", "model", "file://[", "http://127.0.0.1/m", "dataset://x"])
def test_an_unknown_scheme_is_refused(access: Access, uri: str) -> None:
    refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_model_in_s3_is_checked(s3: str, access: Access) -> None:
    prefix = f"s3://tests/{ULID()}"
    store = Storage(prefix)
    store.put_bytes(b'{"model_type": "mamba"}', "m/config.json")
    store.put_bytes(b"", "m/model.safetensors")
    assert "mamba" in refuse(INLINE | {"model": {"uri": f"{prefix}/m"}}, access, UnsupportedFamily, "model.uri")
    refuse(INLINE | {"model": {"uri": f"{prefix}/nothing"}}, access, InvalidModel, "model.uri")
    refuse(INLINE | {"model": {"uri": "s3://no-such-bucket/m"}}, access, InvalidModel, "model.uri")


def test_one_gguf_file_in_s3_is_accepted_where_it_is_named(s3: str, access: Access) -> None:
    prefix = f"s3://tests/{ULID()}"
    for name in ("a.gguf", "b.gguf"):
        Storage(prefix).put_bytes(b"GGUF", f"m/{name}")
    assert "name one of them" in refuse(INLINE | {"model": {"uri": f"{prefix}/m"}}, access, InvalidModel, "model.uri")
    named = check_request(JobRequest.model_validate(INLINE | {"model": {"uri": f"{prefix}/m/a.gguf"}}), access)
    assert named.names == {"a.gguf"}
    missing = INLINE | {"model": {"uri": f"{prefix}/m/c.gguf"}}
    assert "does not exist" in refuse(missing, access, InvalidModel, "model.uri")


def test_the_layout_per_layer_is_refused_where_only_layers_are_removed(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, method={"units": ["layers"], "scope": "global"}, output={"layout": "per_layer"})
    assert "has an effect only" in refuse(body, access, InvalidRequest, "output.layout")
    own: dict[str, Any] = {"layer_widths": {}, "architectures": ["PerLayerLlamaForCausalLM"]}
    own["auto_map"] = {"AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM"}
    model_directory(tmp_path / "model", **own)
    check_request(JobRequest.model_validate(body), access)


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"model_type": "modernbert"}, True),
        ({"model_type": "deberta-v2", "conv_kernel_size": 3}, True),
        ({"model_type": "deberta-v2"}, False),
        ({"model_type": "electra"}, False),
    ],
)
def test_a_first_layer_that_no_other_replaces_has_to_be_protected(
    tmp_path: Path, access: Access, config: dict[str, Any], refused: bool
) -> None:
    names = dict(enumerate(INLINE["task"]["labels"].values()))
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m", id2label=names, **config)}}
    for method in ({"units": ["ffn"]}, {"units": ["layers"], "protect_first": 1}):
        check_request(JobRequest.model_validate(body | {"method": method}), access)
    removing = body | {"method": {"units": ["layers"]}}
    if refused:
        assert "to 1 or more" in refuse(removing, access, InvalidRequest, "method.protect_first")
    else:
        check_request(JobRequest.model_validate(removing), access)


@pytest.mark.parametrize("field", ["rope_parameters", "rope_scaling"])
def test_a_phi3_with_long_rotary_positions_keeps_its_heads(tmp_path: Path, access: Access, field: str) -> None:
    config: dict[str, Any] = {field: {"type": "longrope", "long_factor": [1.0, 2.0], "short_factor": [1.0, 1.5]}}
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m", model_type="phi3", **config)}}
    check_request(JobRequest.model_validate(body), access)
    by_heads = body | {"method": {"units": ["ffn", "heads"]}}
    message = refuse(by_heads, access, UnsupportedUnit, "method.units")
    assert "remove other units than heads" in message


SEVERAL = {
    "kind": "multi_label",
    "template": "{text}",
    "calibration": {"rows": [{"text": "x", "label": ["LABEL_0"]}] * 4},
}
NUMBERS = {"kind": "regression", "template": "{text}", "calibration": {"rows": [{"text": "x", "label": 1.5}] * 4}}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, "classification"),
        ({"num_labels": 3}, "classification"),
        ({"problem_type": "single_label_classification"}, "classification"),
        ({"num_labels": 1}, "regression"),
        ({"id2label": {"0": "LABEL_0"}}, "regression"),
        ({"problem_type": "regression", "num_labels": 1}, "regression"),
        ({"problem_type": "multi_label_classification"}, "multi_label"),
        ({"problem_type": "multi_label_classification", "num_labels": 1}, "multi_label"),
    ],
)
def test_a_head_takes_the_kind_of_task_that_it_is_for(
    tmp_path: Path, access: Access, config: dict[str, Any], kind: str
) -> None:
    labels = {"billing": "LABEL_0", "delivery": "LABEL_1"}
    tasks = {"classification": INLINE["task"] | {"labels": labels}, "regression": NUMBERS, "multi_label": SEVERAL}
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m", model_type="bert", **config)}}
    for other, task in tasks.items():
        if other == kind:
            check_request(JobRequest.model_validate(body | {"task": task}), access)
        else:
            message = refuse(body | {"task": task}, access, InvalidRequest, "task.kind")
            assert f"send the kind `{kind}`" in message


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"problem_type": "regression"}, "2 outputs and the problem_type 'regression'"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "1 output and the problem_type 'single"),
        ({"problem_type": ["regression"], "num_labels": 1}, "1 output and the problem_type"),
    ],
)
def test_a_head_for_no_kind_of_task_is_refused(
    tmp_path: Path, access: Access, config: dict[str, Any], found: str
) -> None:
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m", model_type="bert", **config)}}
    for task in (INLINE["task"], NUMBERS, SEVERAL):
        assert found in refuse(body | {"task": task}, access, InvalidModel, "model.uri")


@pytest.mark.parametrize("part", ["calibration", "evaluation", "evaluations"])
def test_labels_of_inline_rows_are_those_of_the_head(tmp_path: Path, access: Access, part: str) -> None:
    uri = model_directory(tmp_path / "m", model_type="bert", problem_type="multi_label_classification")
    rows = {"rows": [{"text": "x", "label": ["LABEL_0"]}, {"text": "y", "label": "LABEL_1 | LABEL_7"}] * 2}
    body = INLINE | {"model": {"uri": uri}, "task": SEVERAL | {part: {"far": rows} if part == "evaluations" else rows}}
    message = refuse(body, access, UnknownLabel, "task.labels")
    assert "row 2 has the label 'LABEL_7', which the model's head lacks; it has LABEL_0, LABEL_1" in message
    named = body | {"task": body["task"] | {"labels": {"LABEL_0": "LABEL_0", "LABEL_7": "LABEL_1"}}}
    refuse(named, access, UnknownLabel, f"task.{part}{'.far' if part == 'evaluations' else ''}.rows")


def test_a_regression_needs_a_model_with_a_head(tmp_path: Path, access: Access) -> None:
    body = INLINE | {"model": {"uri": model_directory(tmp_path / "m")}, "task": NUMBERS}
    assert "has no classification head" in refuse(body, access, InvalidRequest, "task.kind")
    observed = body | {"task": INLINE["task"], "observe": [{**NUMBERS, "evaluation": NUMBERS["calibration"]}]}
    del observed["observe"][0]["calibration"]
    refuse(observed, access, InvalidRequest, "observe.0.kind")


@pytest.mark.parametrize("pad", [8, 9, -9])
def test_a_padding_token_that_the_vocabulary_lacks_is_refused(tmp_path: Path, access: Access, pad: int) -> None:
    uri = model_directory(tmp_path / "m", pad_token_id=pad, vocab_size=8)
    body = INLINE | {"model": {"uri": uri}}
    assert f"the pad_token_id {pad}, and the vocabulary has 8" in refuse(body, access, InvalidModel, "model.uri")
    with pytest.raises(InvalidModel, match="the pad_token_id"):
        check_checkpoint(tmp_path / "m")


def test_a_decoder_with_a_classification_head_needs_a_padding_token(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", architectures=["LlamaForSequenceClassification"], pad_token_id=None)
    body = INLINE | {"model": {"uri": uri}}
    assert "LlamaForSequenceClassification finds the last token" in refuse(body, access, InvalidModel, "model.uri")
    with pytest.raises(InvalidModel, match="no pad_token_id"):
        check_checkpoint(tmp_path / "m")
