"""What can be known from the request is refused before any work, with the field to change."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ulid import ULID

from service.api.openapi.examples import INLINE
from service.contract.errors import (
    ForbiddenPath,
    InvalidData,
    InvalidLabels,
    InvalidModel,
    InvalidRequest,
    TaskslimError,
    UnknownLabel,
    UnknownPreset,
    UnsupportedFamily,
    UnsupportedUnit,
)
from service.contract.request import JobRequest
from service.planning.admission import check_request
from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support.job_requests import model_directory, request_body


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(Storage((tmp_path / "artifacts").as_uri()), "default", local_paths=True, roots=())


def refuse(body: dict[str, Any], access: Access, error: type[TaskslimError], param: str) -> str:
    """The message with which the request is refused."""
    with pytest.raises(error) as caught:
        check_request(JobRequest.model_validate(body), access)
    assert type(caught.value) is error
    assert caught.value.param == param
    return caught.value.message


def test_a_sound_request_is_admitted(tmp_path: Path, access: Access) -> None:
    assert check_request(JobRequest.model_validate(request_body(tmp_path)), access).family.model_type == "llama"


def test_a_hub_model_is_the_worker_s_to_check(access: Access) -> None:
    assert check_request(JobRequest.model_validate(INLINE | {"model": {"uri": "hf://owner/name"}}), access).is_on_hub


def test_a_model_that_is_missing_is_refused(tmp_path: Path, access: Access) -> None:
    body = INLINE | {"model": {"uri": (tmp_path / "nothing").as_uri()}}
    assert "does not exist" in refuse(body, access, InvalidModel, "model.uri")


def test_a_pickle_only_model_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", ("pytorch_model.bin",))
    assert "safetensors" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_directory_without_weights_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", ())
    assert "neither" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", auto_map={"AutoModel": "evil.Model"})
    assert "auto_map" in refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


@pytest.mark.parametrize("model_type", ["mamba", None, 7, ["llama"]])
def test_a_family_that_is_not_in_the_table_is_refused(tmp_path: Path, access: Access, model_type: object) -> None:
    uri = model_directory(tmp_path / "m", model_type=model_type)
    assert "llama" in refuse(INLINE | {"model": {"uri": uri}}, access, UnsupportedFamily, "model.uri")


@pytest.mark.parametrize("config", ["", "[", "[]", '"text"', "[" * 100_000])
def test_a_damaged_config_is_refused(tmp_path: Path, access: Access, config: str) -> None:
    uri = model_directory(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(config)
    refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_an_adapter_is_looked_at(tmp_path: Path, access: Access) -> None:
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
    rows = {"rows": [{"text": "x", "label": "negative"}, {"text": "y", "label": "positive"}]}
    body = INLINE | {"model": {"uri": uri}, "task": {"preset": "sst2", "calibration": rows}}
    assert "which the model's head does not have" in refuse(body, access, InvalidLabels, "task.labels")
    labels = {"negative": "delivery", "positive": "refund"}
    check_request(JobRequest.model_validate(body | {"task": body["task"] | {"labels": labels}}), access)
    observed = [{"preset": "sst2", "evaluation": rows}]
    body |= {"task": body["task"] | {"labels": labels}, "observe": observed}
    refuse(body, access, InvalidLabels, "observe.0.labels")


def test_a_generation_task_is_refused_for_a_classification_head(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", **HEAD)
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x", "target": "y"}]}}
    refuse(INLINE | {"model": {"uri": uri}, "task": task}, access, InvalidLabels, "task.kind")


def test_a_latency_of_more_tokens_than_the_model_takes_is_refused(tmp_path: Path, access: Access) -> None:
    uri = model_directory(tmp_path / "m", max_position_embeddings=64)
    body = INLINE | {"model": {"uri": uri}, "target": {"latency_ms": {"value": 40, "tokens": 65}}}
    assert "64 tokens at most" in refuse(body, access, InvalidRequest, "target.latency_ms.tokens")


@pytest.mark.parametrize("uri", ["ftp://host/m", "relative", "model", "file://[", "http://127.0.0.1/m", "dataset://x"])
def test_an_unknown_scheme_is_refused(access: Access, uri: str) -> None:
    refuse(INLINE | {"model": {"uri": uri}}, access, InvalidModel, "model.uri")


def test_a_model_in_s3_is_looked_at(s3: str, access: Access) -> None:
    prefix = f"s3://tests/{ULID()}"
    store = Storage(prefix)
    store.put_bytes(b'{"model_type": "mamba"}', "m/config.json")
    store.put_bytes(b"", "m/model.safetensors")
    assert "mamba" in refuse(INLINE | {"model": {"uri": f"{prefix}/m"}}, access, UnsupportedFamily, "model.uri")
    refuse(INLINE | {"model": {"uri": f"{prefix}/nothing"}}, access, InvalidModel, "model.uri")
    refuse(INLINE | {"model": {"uri": "s3://no-such-bucket/m"}}, access, InvalidModel, "model.uri")


def test_local_paths_can_be_closed(tmp_path: Path, access: Access) -> None:
    closed = Access(access.storage, "default", local_paths=False, roots=())
    refuse(request_body(tmp_path), closed, ForbiddenPath, "model.uri")
    body = INLINE | {"model": {"uri": "hf://owner/name"}, "task": task({"uri": "file:///rows.jsonl"})}
    refuse(body, closed, ForbiddenPath, "task.calibration.uri")


# --- rows ----------------------------------------------------------------------------------------------------------


def task(calibration: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"preset": "sst2", "calibration": calibration} | fields


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        ({"text": "x", "label": "neutral"}, UnknownLabel, "row 2 has the label 'neutral'"),
        ({"text": "x"}, InvalidData, "row 2 has no value in the column 'label'"),
        ({"label": "positive"}, InvalidData, "row 2 has no value in the column 'text'"),
        ({"text": None, "label": "positive"}, InvalidData, "row 2 has no value in the column 'text'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, access: Access, row: dict[str, Any], error: type[TaskslimError], says: str
) -> None:
    rows = [{"text": "fine", "label": "positive"}, row]
    body = request_body(tmp_path, task=task({"rows": rows}))
    assert says in refuse(body, access, error, "task.calibration.rows")


def test_a_fault_of_an_observed_task_names_its_field(tmp_path: Path, access: Access) -> None:
    good = {"preset": "sst2", "evaluation": {"rows": [{"text": "x", "label": "positive"}]}}
    for bad, error, param in (
        ({"preset": "nothing"}, UnknownPreset, "observe.1.preset"),
        ({"preset": "trec"}, UnknownLabel, "observe.1.evaluation.rows"),
        ({"preset": "imdb", "evaluation": {"uri": "file:///nothing.jsonl"}}, InvalidData, "observe.1.evaluation.uri"),
    ):
        refuse(request_body(tmp_path, observe=[good, good | bad]), access, error, param)


def test_two_observed_tasks_of_one_name_are_told_apart_or_refused() -> None:
    observed = {"preset": "sst2", "evaluation": {"uri": "file:///rows.jsonl"}}
    with pytest.raises(ValidationError, match="give each a different `name`"):
        JobRequest.model_validate(INLINE | {"observe": [observed, observed]})
    JobRequest.model_validate(INLINE | {"observe": [observed, observed | {"name": "another"}]})


ROWS = {"rows": [{"text": "x", "label": "positive", "target": "y"}, {"text": "z", "label": "negative", "target": "y"}]}
MOOD = {"preset": "sst2", "calibration": ROWS}
FILMS = MOOD | {"preset": "imdb"}
WRITING = {"kind": "generation", "template": "{text}", "name": "writing", "calibration": ROWS}


def several(tmp_path: Path, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request with several tasks in place of one."""
    body = request_body(tmp_path) | {"tasks": list(tasks)} | fields
    return {name: value for name, value in body.items() if name != "task"}


def test_a_fault_of_one_of_several_tasks_names_its_field(tmp_path: Path, access: Access) -> None:
    check_request(JobRequest.model_validate(several(tmp_path, MOOD, FILMS)), access)
    refuse(several(tmp_path, MOOD, FILMS | {"preset": "no"}), access, UnknownPreset, "tasks.1.preset")
    refuse(several(tmp_path, MOOD | {"preset": "trec"}, FILMS), access, UnknownLabel, "tasks.0.calibration.rows")
    missing = FILMS | {"evaluation": {"uri": "file:///nothing.jsonl"}}
    refuse(several(tmp_path, MOOD, missing), access, InvalidData, "tasks.1.evaluation.uri")


def test_scores_of_two_kinds_are_not_united(tmp_path: Path, access: Access) -> None:
    assert "cannot be united" in refuse(several(tmp_path, MOOD, WRITING), access, InvalidRequest, "tasks")


@pytest.mark.parametrize(
    ("tasks", "fields", "says"),
    [
        ((MOOD,), {}, "at least two"),
        ((), {}, "at least two"),
        ((MOOD, FILMS), {"task": MOOD}, "at least two"),
        ((MOOD, MOOD), {}, "give each a different `name`"),
        ((MOOD, FILMS), {"target": {"keep_metric": 0.9}}, "need a single task"),
        ((MOOD, FILMS), {"target": {"sweep": [0.1, 0.2]}}, "need a single task"),
        ((MOOD, FILMS), {"method": {"steps": 3}}, "`method.steps` must be 1"),
        ((MOOD, FILMS | {"supervision": "none"}), {}, "takes neither"),
        ((MOOD, FILMS | {"evaluations": {"other": ROWS}}), {}, "takes neither"),
    ],
)
def test_tasks_that_make_no_union_are_refused(
    tmp_path: Path, tasks: tuple[dict[str, Any], ...], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        JobRequest.model_validate(several(tmp_path, *tasks) | fields)


def test_generation_rows_need_a_target(tmp_path: Path, access: Access) -> None:
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x"}]}}
    message = refuse(request_body(tmp_path, task=task), access, InvalidData, "task.calibration.rows")
    assert "'target'" in message


@pytest.mark.parametrize("name", ["missing.jsonl", "rows.txt", "directory.jsonl"])
def test_a_file_of_rows_that_cannot_be_one_is_refused(tmp_path: Path, access: Access, name: str) -> None:
    (tmp_path / "rows.txt").touch()
    (tmp_path / "directory.jsonl").mkdir()
    body = request_body(tmp_path, task=task({"uri": (tmp_path / name).as_uri()}))
    refuse(body, access, InvalidData, "task.calibration.uri")


@pytest.mark.parametrize("uri", ["dataset://nothing", "dataset://../../x", "dataset://", "hf://data/set.jsonl"])
def test_a_data_set_that_does_not_exist_is_refused(tmp_path: Path, access: Access, uri: str) -> None:
    body = request_body(tmp_path, task=task({"uri": uri}))
    refuse(body, access, InvalidData, "task.calibration.uri")


def test_margin_needs_labels(tmp_path: Path, access: Access) -> None:
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x", "target": "y"}]}}
    body = request_body(tmp_path, task=task, method={"objective": "margin"})
    refuse(body, access, InvalidRequest, "method.objective")


def test_a_criterion_without_a_formula_for_the_unit_is_refused(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, method={"criterion": "wanda", "units": ["ffn", "layers"], "scope": "global"})
    refuse(body, access, UnsupportedUnit, "method.units")


TASK: dict[str, Any] = INLINE["task"]
UNSUPERVISED = TASK | {"supervision": "none"}


def test_calibration_rows_need_no_labels_without_supervision(tmp_path: Path, access: Access) -> None:
    rows = {"rows": [{"text": "I was charged twice."}, {"text": "Where is it?"}]}
    body = request_body(tmp_path, task=UNSUPERVISED | {"calibration": rows, "evaluations": {"plain": rows}})
    check_request(JobRequest.model_validate(body), access)
    body = request_body(tmp_path, task=TASK | {"calibration": rows})
    assert refuse(body, access, InvalidData, "task.calibration.rows") == "row 1 has no value in the column 'label'"


def test_rows_of_a_named_evaluation_set_are_checked_like_others(tmp_path: Path, access: Access) -> None:
    rows = {"rows": [{"text": "Where is it?", "label": "weather"}]}
    body = request_body(tmp_path, task=TASK | {"evaluations": {"other": rows}})
    assert "weather" in refuse(body, access, UnknownLabel, "task.evaluations.other.rows")
    some = {"rows": [{"text": "Where is it?", "label": "delivery"}, {"text": "It came."}]}
    body = request_body(tmp_path, task=UNSUPERVISED | {"evaluations": {"other": some}})
    assert "row 2" in refuse(body, access, InvalidData, "task.evaluations.other.rows")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence": 0.5}, "supervision: none"),
        ({"supervision": "none", "calibration": {"uri": "file:///a.jsonl", "draw": "balanced"}}, "no labels"),
        ({"kind": "generation", "evaluation": {"uri": "file:///a.jsonl", "draw": "balanced"}}, "no labels"),
        ({"evaluations": {"../up": {"uri": "file:///a.jsonl"}}}, "pattern"),
    ],
)
def test_settings_of_a_task_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobRequest.model_validate(INLINE | {"task": TASK | fields})


@pytest.mark.parametrize(
    ("method", "criterion"),
    [
        ({}, "surgeon"),
        ({"repair": "least_squares"}, "surgeon"),
        ({"repair": "none"}, "attribution"),
        ({"repair": "bias"}, "attribution"),
        ({"repair": "none", "criterion": "surgeon"}, "surgeon"),
        ({"criterion": "wanda"}, "wanda"),
    ],
)
def test_the_criterion_is_the_one_that_suits_the_repair_unless_another_is_named(
    method: dict[str, Any], criterion: str
) -> None:
    assert JobRequest.model_validate(INLINE | {"method": method}).method.criterion == criterion


@pytest.mark.parametrize("units", [["ffn", "layers"], ["heads", "head_dims"]])
def test_units_that_hold_each_other_need_one_budget(units: list[str]) -> None:
    with pytest.raises(ValidationError, match="scope: global"):
        JobRequest.model_validate(INLINE | {"method": {"units": units}})
    JobRequest.model_validate(INLINE | {"method": {"units": units, "scope": "global"}})


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ({"normalisation": "mean"}, "normalisation"),
        ({"criterion": "wanda", "objective": "margin", "repair": "none"}, "objective"),
        ({"criterion": "second_moment", "token_reduction": "max"}, "token_reduction"),
        ({"criterion": "gisp", "sign": "absolute"}, "sign"),
        ({"criterion": "flap", "example_reduction": "sum"}, "example_reduction"),
        ({"protect_first": 1}, "protect_first"),
        ({"protect_last": 1, "scope": "global"}, "protect_last"),
        ({"seed": 5}, "seed"),
        ({"union": "max"}, "union"),
        ({"criterion": "magnitude", "steps": 9}, "steps"),
        ({"criterion": "random", "steps": 9}, "steps"),
        ({"units": ["layers"], "repair": "least_squares"}, "repair"),
        ({"units": ["layers"], "repair": "bias"}, "repair"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    tmp_path: Path, access: Access, method: dict[str, Any], option: str
) -> None:
    body = request_body(tmp_path, method=method)
    assert "has an effect only" in refuse(body, access, InvalidRequest, f"method.{option}")


@pytest.mark.parametrize(
    ("method", "output"),
    [
        ({"criterion": "attribution", "scope": "global", "sign": "absolute"}, {}),
        ({"scope": "global", "normalisation": "none", "protect_first": 1}, {"layout": "per_layer"}),
        ({"criterion": "random", "seed": 5}, {}),
        ({"criterion": "magnitude", "repair": "least_squares_layerwise", "objective": "margin"}, {}),
        ({"controls": True, "seed": 5}, {}),
        ({"criterion": "magnitude", "scope": "global", "steps": 9}, {}),
        ({"units": ["layers"]}, {}),
        ({"units": ["layers"], "repair": "none"}, {}),
        ({"units": ["layers"], "protect_last": 1}, {}),
        ({"units": ["ffn", "layers"], "scope": "global", "repair": "least_squares"}, {"layout": "per_layer"}),
    ],
)
def test_options_that_change_something_are_admitted(
    tmp_path: Path, access: Access, method: dict[str, Any], output: dict[str, Any]
) -> None:
    body = request_body(tmp_path, method=method, output=output)
    check_request(JobRequest.model_validate(body), access)


def test_widths_of_each_layers_own_are_refused_where_whole_layers_go(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, method={"units": ["layers"], "scope": "global"}, output={"layout": "per_layer"})
    assert "has an effect only" in refuse(body, access, InvalidRequest, "output.layout")
    own: dict[str, Any] = {"layer_widths": {}, "architectures": ["PerLayerLlamaForCausalLM"]}
    own["auto_map"] = {"AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM"}
    model_directory(tmp_path / "model", **own)
    check_request(JobRequest.model_validate(body), access)


def test_indices_are_refused_beside_a_repair() -> None:
    fields = {"output": {"formats": ["indices"]}, "method": {"repair": "least_squares"}}
    with pytest.raises(ValidationError, match="formats: indices"):
        JobRequest.model_validate(INLINE | fields)
