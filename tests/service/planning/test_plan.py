"""A plan says what the job will report, for every family and unit, and refuses what a job would refuse."""

import json
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from redis import Redis

from service.api.openapi.response_examples import REPORT
from service.contract.catalog import Plan
from service.contract.errors import (
    InvalidModel,
    StorageUnavailable,
    TargetUnreachable,
    TaskslimError,
    UnsupportedUnit,
)
from service.contract.families import FAMILIES
from service.contract.job import Stage
from service.contract.options import Unit
from service.contract.report import Report, StageTiming
from service.contract.request import JobRequest
from service.jobs.record import new_record
from service.planning.plan import plan, plan_for
from service.planning.time_estimate import Durations
from service.settings import Settings
from service.sources.access import Access
from service.sources.checkpoint import read_checkpoint
from service.sources.fingerprints import fingerprints
from service.sources.model_directory import ModelDirectory
from service.sources.safetensors_header import TensorShape
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from tests.support import checkpoints
from tests.support.hub_cache import COMMIT, cache_hub_model
from tests.support.job_requests import model_directory
from tests.support.planning import LABELS, ROWS, request_for
from tests.support.score_sets import digest_of, measured, safetensors
from tests.support.tiny_models import TINY
from worker import pipeline
from worker.checkpoints.llama_as_mistral import to_stock_class
from worker.checkpoints.loading import count_parameters
from worker.slimming import selection, surgery
from worker.slimming.allocation import share_removed
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units import Group, Site, locate


def family_of(name: str) -> str:
    return name.removesuffix("_gated")


def unit_sets(name: str) -> list[list[Unit]]:
    """Every unit of a family alone, and all that can each give up the same share: none holds parameters of another."""
    units = FAMILIES[family_of(name)].units
    together = [[Unit.ffn, unit] for unit in units if unit in (Unit.heads, Unit.head_dims)]
    return [[unit] for unit in units] + together


CASES = [(name, units) for name in TINY for units in unit_sets(name)]


@pytest.fixture
def access(storage: Storage) -> Access:
    """Of a caller who may name every local path."""
    return Access(storage, "default", True, ())


@pytest.mark.parametrize(("name", "units"), CASES, ids=[f"{name}-{'+'.join(units)}" for name, units in CASES])
def test_plan_is_what_the_cut_leaves(name: str, units: list[Unit], tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path / "dense", name)
    ratio = 0.5 if Unit.layers in units else 0.3
    planned = plan(request_for(tmp_path / "dense", ratio, method={"units": units}), access)
    architecture = ARCHITECTURES[family_of(name)]
    groups, dense = locate(model, architecture, units), count_parameters(model)
    # The plan supposes that the last layers go; the first one of a T5 alone holds the position bias.
    scores = {group.site: torch.rand(group.count) - group.site.layer for group in groups}
    kept = selection.select(scores, groups, ratio, 8)
    surgery.cut(model, architecture, kept)
    slim = to_stock_class(model)
    slim.save_pretrained(tmp_path / "slim")
    assert planned.exact
    assert (planned.parameters.dense, planned.parameters.slim) == (dense, count_parameters(slim))
    assert planned.ratio == pytest.approx(
        share_removed(groups, {site: kept_K.numel() for site, kept_K in kept.items()})
    )
    assert {(found.stack, found.unit): (found.dense, found.slim) for found in planned.widths} == widths(groups, kept)
    assert planned.bytes.dense == (tmp_path / "dense/model.safetensors").stat().st_size
    assert planned.bytes.slim == (tmp_path / "slim/model.safetensors").stat().st_size


def widths(groups: list[Group], kept: dict[Site, torch.Tensor]) -> dict[tuple[str, str], tuple[int, int]]:
    """(stack, unit) -> units before and after: in one layer, and of layers in the stack."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for group in groups:
        key = (group.site.stack, group.kind)
        dense, slim = found.get(key, (0, 0)) if group.kind == "layers" else (0, 0)
        found[key] = (dense + group.count // group.rows, slim + kept[group.site].numel() // group.rows)
    return found


class Silence:
    """Hears nothing of a job's stages."""

    def stage(self, stage: Stage) -> None: ...

    def advance(self, done: int, total: int, unit: str) -> None: ...


@pytest.mark.parametrize(
    ("name", "method"), [("llama", {"repair": "bias"}), ("t5", {"units": ["ffn", "heads"]})], ids=["llama", "t5"]
)
def test_plan_is_what_the_job_reports(
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
    result = pipeline.run(job, settings=settings, storage=storage, progress=Silence(), scratch=scratch)
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


def test_shards_are_read_as_one(tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path / "one", "llama")
    checkpoints.tokenizer().save_pretrained(tmp_path / "many")
    model.save_pretrained(tmp_path / "many", max_shard_size=20_000)
    assert not (tmp_path / "many/model.safetensors").exists()
    one, many = (plan(request_for(tmp_path / name), access) for name in ("one", "many"))
    assert one.parameters == many.parameters
    assert many.bytes.dense == sum(path.stat().st_size for path in (tmp_path / "many").glob("*.safetensors"))


def test_cache_counts_what_the_heads_and_layers_that_stay_keep(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama", torch.bfloat16)
    planned = plan(request_for(tmp_path, 0.5, method={"units": ["heads"]}), access)
    assert planned.cache_bytes_per_token is not None
    # key and value, two layers, of two key-value heads one stays, eight dimensions, two bytes
    assert (planned.cache_bytes_per_token.dense, planned.cache_bytes_per_token.slim) == (128, 64)


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
def test_a_hub_that_cannot_be_asked_is_no_verdict_on_the_model(access: Access) -> None:
    with pytest.raises(StorageUnavailable, match="not in the local cache"):
        plan(hub_request(uri="hf://owner/other"), access)


@pytest.mark.usefixtures("hub")
def test_what_is_no_name_on_a_hub_is_refused(access: Access) -> None:
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


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("value", [None, 0, 3, 10**9, "x", []], ids=repr)
def test_no_config_breaks_a_plan(name: str, value: Any, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    requests = [request_for(tmp_path, method={"units": units}) for units in unit_sets(name)]
    for field, request in product(config, requests):
        for changed in (config | {field: value}, {key: config[key] for key in config if key != field}):
            path.write_text(json.dumps(changed))
            with suppress(TaskslimError):
                plan(request, access)


def test_tensors_of_other_shapes_break_no_plan(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    requests = [request_for(tmp_path, method={"units": units}) for units in (["ffn", "heads"], ["layers"])]
    checkpoint = read_checkpoint(ModelDirectory.of(requests[0].model, access))
    shapes: list[tuple[int, ...]] = [(), (0,), (7,), (0, 0), (10**9, 10**9), (1, 2, 3)]
    for name, shape, request in product(checkpoint.tensors, shapes, requests):
        tensors = {**checkpoint.tensors, name: TensorShape("F32", shape)}
        with suppress(TaskslimError):
            plan_for(request, replace(checkpoint, tensors=tensors))


# --- over HTTP -----------------------------------------------------------------------------------------------------


def test_plans_are_answered_and_nothing_is_queued(client: TestClient, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "qwen2")
    answer = client.post("/plans", json=request_for(tmp_path).model_dump(mode="json"))
    assert answer.status_code == 200, answer.text
    assert Plan.model_validate(answer.json()).family == "qwen2"
    assert client.get("/jobs").json()["data"] == []


PER_LAYER = {
    "layer_widths": {},
    "architectures": ["PerLayerLlamaForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_taskslim.PerLayerLlamaForCausalLM"},
}


def task(**fields: Any) -> dict[str, Any]:
    return {"task": {"template": "{text}:", "labels": LABELS, "calibration": {"rows": ROWS}} | fields}


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "ratio": {"target": {"ratio": 2}},
    "no width left": {"target": {"ratio": 0.9}, "output": {"round_to": 64}},
    "unknown field": {"targets": {"ratio": 0.3}},
    "no template": {"task": {"calibration": {"rows": ROWS}}},
    "unknown preset": {"task": {"preset": "none", "calibration": {"rows": ROWS}}},
    "template of no column": task(template="?"),
    "labels alike": task(labels={"bad": "x", "good": "x"}),
    "unnamed label": task(labels={"bad": "bad", "fair": "fair"}),
    "row without column": task(template="{title}:"),
    "no such data set": task(calibration={"uri": "dataset://none"}),
    "no such rows": task(evaluation={"uri": "file:///no/such.jsonl"}),
    "rows of no format": task(evaluation={"uri": "s3://bucket/rows.txt"}),
    "rows of no scheme": task(evaluation={"uri": "ftp://host/rows.jsonl"}),
    "rows twice": task(calibration={"rows": ROWS, "uri": "dataset://none"}),
    "no such model": {"model": {"uri": "file:///no/such/model"}},
    "model of no scheme": {"model": {"uri": "/models/tiny"}},
    "no such job": {"model": {"uri": "job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"}},
    "pickle": {"model": {"uri": "PICKLE"}},
    "family": {"model": {"uri": "FAMILY"}},
    "remote code": {"model": {"uri": "CODE"}},
    "widths of its own": {"model": {"uri": "WIDTHS"}},
    "damaged weights": {"model": {"uri": "DAMAGED"}},
    "no such adapter": {"model": {"uri": "MODEL", "adapter_uri": "file:///no/such/adapter"}},
    "no adapter": {"model": {"uri": "MODEL", "adapter_uri": "MODEL"}},
    "unit of another family": {"method": {"units": ["head_dims"]}},
    "unit that the criterion lacks": {"method": {"units": ["layers"], "criterion": "wanda"}},
    "unit twice": {"method": {"units": ["ffn", "ffn"]}},
    "margin without labels": task(kind="generation", labels=None, calibration={"rows": [{"text": "a", "target": "b"}]})
    | {"method": {"objective": "margin"}},
    "layout without rank": {"output": {"layout": "per_layer"}},
    "webhook without encryption": {"webhook": {"url": "http://hooks.example/"}},
}


def damaged_models(directory: Path) -> dict[str, str]:
    """Name in the table -> URI, of models that are no good, and of one that is."""
    configs: dict[str, dict[str, Any]] = {
        "PICKLE": {},
        "FAMILY": {"model_type": "mamba"},
        "CODE": {"auto_map": {"AutoModel": "code.Model"}},
        "WIDTHS": PER_LAYER,
        "DAMAGED": {},
        "MODEL": {},
    }
    for name, config in configs.items():
        names = ("pytorch_model.bin",) if name == "PICKLE" else ("model.safetensors",)
        model_directory(directory / name, names, **config)
    (directory / "DAMAGED/model.safetensors").write_bytes(b"{")
    return {name: (directory / name).as_uri() for name in configs}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_requests_get_the_problem_that_a_job_gets(client: TestClient, tmp_path: Path, case: str) -> None:
    checkpoints.write(tmp_path / "llama", "llama")
    text = json.dumps(request_for(tmp_path / "llama").model_dump(mode="json", exclude_unset=True) | IMPOSSIBLE[case])
    for name, uri in damaged_models(tmp_path).items():
        text = text.replace(f'"{name}"', f'"{uri}"')
    planned, submitted = (client.post(path, json=json.loads(text)) for path in ("/plans", "/jobs"))
    assert planned.status_code == submitted.status_code >= 400
    assert planned.json() | {"instance": "/jobs"} == submitted.json()


def test_a_plan_says_whether_scores_are_there_and_how_long_it_may_take(
    client: TestClient, tmp_path: Path, redis: Redis, storage: Storage
) -> None:
    checkpoints.write(tmp_path / "llama", "llama")
    body = request_for(tmp_path / "llama").model_dump(mode="json", exclude_unset=True)
    first = client.post("/plans", json=body).json()
    assert (first["scores_cached"], first["time"]) == (False, None)
    access = Access(storage, "default", True, ())
    found = fingerprints(JobRequest.model_validate(body), access)
    content = safetensors()
    scores, durations = ScoreSets(redis, storage), Durations(redis)
    scores.add("default", measured(content, digest_of("a")), content, days=1)
    scores.note("default", found.units, [digest_of("a")], days=1)
    timings = [
        StageTiming(stage=stage, seconds=seconds)
        # The model planned here is some ten thousand times smaller than that of the report.
        for stage, seconds in (("evaluate_dense", 5e6), ("attribute", 20e6), ("repair", 4e6), ("verify", 3e6))
    ]
    durations.record(Report.model_validate(REPORT).model_copy(update={"timings": timings}))
    cached = client.post("/plans", json=body).json()
    other = client.post("/plans", json=body | {"method": {"criterion": "wanda"}}).json()
    assert (cached["scores_cached"], other["scores_cached"]) == (True, False)
    assert cached["time"]["runs"] == other["time"]["runs"] == 1
    assert cached["time"]["seconds"] < other["time"]["seconds"]
    scores.note("default", found.rows, [digest_of("a")], days=1)
    assert client.post("/plans", json=body).json()["time"]["seconds"] < cached["time"]["seconds"]
    client.delete(f"/scores/{digest_of('a')}")
    assert client.post("/plans", json=body).json()["scores_cached"] is False


def test_a_plan_whose_adapter_nobody_can_look_at_does_not_say_whether_scores_are_there(
    client: TestClient, hub: Path
) -> None:
    body = request_for(hub, model={"uri": hub.as_uri(), "adapter_uri": "hf://owner/adapter"})
    planned = client.post("/plans", json=body.model_dump(mode="json", exclude_unset=True))
    assert (planned.status_code, planned.json()["scores_cached"]) == (200, None)
