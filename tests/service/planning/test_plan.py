"""Plans against cut models and reports of jobs, for every family and unit."""

import json
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.errors import (
    InvalidModel,
    StorageUnavailable,
    TargetUnreachable,
    TaskslimError,
    UnsupportedUnit,
)
from service.contract.options import Format, Unit
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.models.families.table import FAMILIES, keeps_first_layer
from service.planning.plan import plan, plan_for
from service.settings import Settings
from service.sources.access import Access
from service.sources.checkpoint import read_checkpoint
from service.sources.model_directory import ModelDirectory
from service.sources.safetensors_header import TensorShape
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.hub_cache import COMMIT, cache_hub_model
from tests.support.planning import ROWS, request_for
from tests.support.progress import IgnoredProgress
from tests.support.quick_verification import verifying_here
from tests.support.tiny_models import TINY, tiny_family
from worker import pipeline
from worker.checkpoints.loading import count_parameters
from worker.checkpoints.model_classes.llama_as_mistral import to_stock_class
from worker.slimming import selection
from worker.slimming.allocation import share_removed
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.surgery import slicing
from worker.slimming.units.groups import Group, Kept
from worker.slimming.units.locating import locate


def family_of(name: str) -> str:
    return tiny_family(name).model_type


def unit_sets(name: str) -> list[list[Unit]]:
    """Every unit of a family alone, and all that can each give up the same share: none holds parameters of another."""
    units: list[Unit] = [unit for unit in FAMILIES[family_of(name)].units if unit != Unit.vocabulary]
    first = Unit.ffn if Unit.ffn in units else Unit.experts
    together = [[first, unit] for unit in units if unit in (Unit.heads, Unit.head_dims)]
    return [[unit] for unit in units] + together


CASES = [(name, units) for name in TINY for units in unit_sets(name)]


@pytest.mark.parametrize(("name", "units"), CASES, ids=[f"{name}-{'+'.join(units)}" for name, units in CASES])
def test_a_plan_equals_the_cut_model(name: str, units: list[Unit], tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path / "dense", name)
    ratio = 0.5 if Unit.layers in units else 0.3
    keeps_first = keeps_first_layer(tiny_family(name), model.config.to_dict())
    method = {"units": units} | ({"protect_first": 1} if keeps_first and Unit.layers in units else {})
    planned = plan(request_for(tmp_path / "dense", ratio, method=method), access)
    architecture = ARCHITECTURES[family_of(name)]
    groups, dense = locate(model, architecture, units), count_parameters(model)
    # The plan supposes that the last layers go; the first one of a T5 alone holds the position bias.
    scores = {group.site: torch.rand(group.count) - group.site.layer for group in groups}
    kept = selection.select(scores, groups, ratio, 8)
    slicing.cut(model, architecture, kept)
    slim = to_stock_class(model)
    slim.save_pretrained(tmp_path / "slim")
    assert planned.exact
    assert (planned.parameters.dense, planned.parameters.slim) == (dense, count_parameters(slim))
    assert planned.ratio == pytest.approx(
        share_removed(groups, {site: kept_K.numel() for site, kept_K in kept.items()})
    )
    found = {(each.stack, each.unit, each.part): (each.dense, each.slim) for each in planned.widths}
    assert found == widths(groups, kept)
    assert planned.bytes.dense == (tmp_path / "dense/model.safetensors").stat().st_size
    assert planned.bytes.slim == (tmp_path / "slim/model.safetensors").stat().st_size


def widths(groups: list[Group], kept: Kept) -> dict[tuple[str, str, str | None], tuple[int, int]]:
    """(stack, unit, part) -> units before and after: in one layer, and of layers in the stack."""
    found: dict[tuple[str, str, str | None], tuple[int, int]] = {}
    for group in groups:
        part = group.site.unit if group.site.unit in ("expert_ffn", "shared_ffn") else None
        key = (group.site.stack, group.kind, part)
        dense, slim = found.get(key, (0, 0)) if group.kind == "layers" else (0, 0)
        rows = 1 if group.kind == "experts" else group.rows  # experts of a layer, not of one group of the router
        found[key] = (dense + group.count // rows, slim + kept[group.site].numel() // rows)
    return found


@pytest.mark.parametrize(
    ("name", "method"), [("llama", {"repair": "bias"}), ("t5", {"units": ["ffn", "heads"]})], ids=["llama", "t5"]
)
def test_a_plan_equals_the_report_of_the_job(
    name: str, method: dict[str, Any], tmp_path: Path, access: Access, storage: Storage
) -> None:
    torch.set_num_threads(1)
    checkpoints.write(tmp_path / "model", name)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 2))
    request = request_for(tmp_path / "model", method=method)
    planned = plan(request, access)
    calibration = request.slimmed_for[0].calibration.model_copy(update={"rows": None, "uri": rows.as_uri()})
    job = new_record(
        request.model_copy(update={"task": request.slimmed_for[0].model_copy(update={"calibration": calibration})})
    )
    settings, scratch = Settings(state=tmp_path, device="cpu"), tmp_path / "scratch"
    scratch.mkdir()
    with verifying_here():
        result = pipeline.run(job, settings=settings, storage=storage, progress=IgnoredProgress(), scratch=scratch)
    assert planned.parameters.model_dump() == result.parameters.model_dump()
    assert planned.bytes.model_dump() == result.bytes.model_dump()
    assert planned.widths == result.widths
    assert planned.ratio == pytest.approx(result.ratio)


def test_a_global_rank_has_the_figures_of_its_ratio(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    planned = plan(request_for(tmp_path, method={"scope": "global", "units": ["ffn", "heads"]}), access)
    assert not planned.exact
    assert planned.widths == []
    assert planned.parameters.slim is not None
    removed = planned.parameters.dense - planned.parameters.slim
    assert removed == round(0.3 * 2 * (3 * 32 * 48 + 2 * 32 * 32 + 2 * 32 * 16))


def test_sharded_weights_are_planned_as_one_file(tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path / "one", "llama")
    checkpoints.tokenizer().save_pretrained(tmp_path / "many")
    model.save_pretrained(tmp_path / "many", max_shard_size=20_000)
    assert not (tmp_path / "many/model.safetensors").exists()
    one, many = (plan(request_for(tmp_path / name), access) for name in ("one", "many"))
    assert one.parameters == many.parameters
    assert many.bytes.dense == sum(path.stat().st_size for path in (tmp_path / "many").glob("*.safetensors"))


def test_the_cache_counts_the_kept_heads_and_layers(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama", torch.bfloat16)
    planned = plan(request_for(tmp_path, 0.5, method={"units": ["heads"]}), access)
    assert planned.cache_bytes_per_token is not None
    # key and value, two layers, of two key-value heads one stays, eight dimensions, two bytes
    assert (planned.cache_bytes_per_token.dense, planned.cache_bytes_per_token.slim) == (128, 64)


@pytest.mark.parametrize("name", ["gemma4_text", "gemma4_text_shared"])
def test_the_cache_of_a_gemma4_is_that_of_the_stock_class(name: str, tmp_path: Path, access: Access) -> None:
    model, tokens = checkpoints.write(tmp_path, name), 3
    cache = model(input_ids=torch.arange(4, 4 + tokens)[None], use_cache=True).past_key_values
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None) // tokens
    planned = plan(request_for(tmp_path, 0.5), access).cache_bytes_per_token
    assert planned is not None
    assert planned.dense == planned.slim == size


def test_a_classifier_keeps_no_cache(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "bert")
    assert plan(request_for(tmp_path), access).cache_bytes_per_token is None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return cache_hub_model(monkeypatch, tmp_path)


# --- the hub -------------------------------------------------------------------------------------------------------


def hub_request(**model: Any) -> JobRequest:
    return request_for(Path("/none"), model={"uri": "hf://owner/name"} | model)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_model_is_planned_from_the_local_cache(hub: Path, access: Access, revision: str | None) -> None:
    assert plan(hub_request(revision=revision), access) == plan(request_for(hub), access)


@pytest.mark.usefixtures("hub")
def test_an_unreachable_hub_is_reported_as_unavailable(access: Access) -> None:
    with pytest.raises(StorageUnavailable, match="not in the local cache"):
        plan(hub_request(uri="hf://owner/other"), access)


@pytest.mark.usefixtures("hub")
def test_an_invalid_name_on_a_hub_is_refused(access: Access) -> None:
    with pytest.raises(InvalidModel, match="does not exist"):
        plan(hub_request(uri="hf://a/b/c"), access)


@pytest.mark.usefixtures("hub")
def test_units_of_a_hub_model_are_checked(access: Access) -> None:
    with pytest.raises(UnsupportedUnit):
        plan(request_for(Path("/none"), model={"uri": "hf://owner/name"}, method={"units": ["head_dims"]}), access)


# --- what cannot be planned ----------------------------------------------------------------------------------------


def test_a_width_of_zero_is_unreachable(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    with pytest.raises(TargetUnreachable, match="round_to") as caught:
        plan(request_for(tmp_path, 0.9, round_to=64), access)
    assert caught.value.param == "target.ratio"


def test_damaged_weights_are_named(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    with pytest.raises(InvalidModel, match=r"model\.safetensors is damaged"):
        plan(request_for(tmp_path), access)


ABSENT = object()


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize(
    "value", [None, 0, 3, 10**9, "x", [], ABSENT], ids=lambda value: "absent" if value is ABSENT else repr(value)
)
def test_a_changed_config_gives_a_plan_or_an_error(name: str, value: Any, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    requests = [request_for(tmp_path, method={"units": units}) for units in unit_sets(name)]
    for field in config:
        changed = {key: config[key] for key in config if key != field} | ({} if value is ABSENT else {field: value})
        path.write_text(json.dumps(changed))
        for request in requests:
            with suppress(TaskslimError):
                plan(request, access)


def test_changed_shapes_give_a_plan_or_an_error(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    requests = [request_for(tmp_path, method={"units": units}) for units in (["ffn", "heads"], ["layers"])]
    checkpoint = read_checkpoint(ModelDirectory.of(requests[0].model, access))
    shapes: list[tuple[int, ...]] = [(), (0,), (7,), (0, 0), (10**9, 10**9), (1, 2, 3)]
    for name, shape, request in product(checkpoint.tensors, shapes, requests):
        tensors = {**checkpoint.tensors, name: TensorShape("F32", shape)}
        with suppress(TaskslimError):
            plan_for(request, replace(checkpoint, tensors=tensors))


def test_a_plan_promises_a_runtime_only_what_it_reads(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path / "qwen2", "qwen2")
    planned = plan(request_for(tmp_path / "qwen2", 0.5, method={"units": ["heads"]}), access)
    assert [runtime.name for runtime in planned.runtimes if runtime.loads] == [
        "transformers",
        "llama.cpp",
        "onnxruntime",
    ]
    checkpoints.write(tmp_path / "gemma3", "gemma3_text")
    checkpoints.change_config(tmp_path / "gemma3", query_pre_attn_scalar=8)
    by_layers = plan(request_for(tmp_path / "gemma3", 0.5, method={"units": ["layers"]}), access)
    loading = {runtime.name for runtime in by_layers.runtimes if runtime.loads}
    assert loading == {"transformers", "vllm", "sglang", "onnxruntime"}
    checkpoints.write(tmp_path / "llama")
    biased = plan(request_for(tmp_path / "llama", 0.3, method={"repair": "bias"}), access)
    assert [runtime.name for runtime in biased.runtimes if not runtime.loads] == ["sglang"]
    by_neurons = plan(request_for(tmp_path / "gemma3", 0.3, method={"units": ["ffn"]}), access)
    assert {runtime.name for runtime in by_neurons.runtimes if not runtime.loads} == {"mlx-lm"}  # it has two layers


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_plan_says_which_runtimes_load_layers_of_different_widths(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    fields: dict[str, Any] = {"method": {"scope": "global"}, "output": {"layout": "per_layer", "round_to": 8}}
    planned = plan(request_for(tmp_path, **fields), access)
    found = {runtime.name: runtime for runtime in planned.runtimes}
    assert found["transformers"].loads
    assert found["vllm"].loads is (name == "llama")
    assert not found["sglang"].loads
    assert (found["onnxruntime"].loads, found["onnxruntime"].export) == (True, Format.onnx)
    assert all(runtime.reason for runtime in planned.runtimes)
