"""Jobs that remove experts, from the request to the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from service.contract.answers.result import DenseSlim
from service.contract.errors import (
    InvalidData,
    InvalidModel,
    InvalidRequest,
    TargetUnreachable,
    TaskslimError,
    UnsupportedUnit,
)
from service.contract.options import Unit
from service.contract.request.job_request import JobRequest
from service.models.tensors.names import CORRECTION
from service.planning.idle_options import check_idle_options
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.architecture_rows import having, mergeable
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import TINY, logits, tiny_family
from worker.checkpoints.kept_indices import apply_kept, read_kept, save_kept
from worker.slimming.units.groups import Site
from worker.sources.fetching import FetchedModel

EXPERTS: dict[str, Any] = {"units": ["experts"]}


def planned(deployment: Deployment, request: JobRequest) -> Any:
    return plan(request, Access(deployment.storage, "default", True, ()))


@pytest.mark.parametrize("family", having(Unit.experts))
def test_a_job_removes_as_many_experts_as_its_plan_says(deployment: Deployment, family: str, tmp_path: Path) -> None:
    request = deployment.request(family, method=EXPERTS | {"criterion": "reap"}, target={"ratio": 0.5})
    plan_of, result = planned(deployment, request), deployment.run(request)
    [widths] = result.widths
    assert (widths.dense, widths.slim, widths.per_token) == (8, 4, DenseSlim(dense=2, slim=2))
    assert plan_of.widths == result.widths
    assert plan_of.parameters.model_dump() == result.parameters.model_dump()
    assert plan_of.bytes.model_dump() == result.bytes.model_dump()
    assert plan_of.cache_bytes_per_token.dense == plan_of.cache_bytes_per_token.slim
    deployment.download(tmp_path)
    written = load_file(tmp_path / "model/model.safetensors")
    assert any(".experts.3." in name for name in written) == (family != "gpt_oss")
    slim = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert slim.num_parameters() == result.parameters.slim
    assert (getattr(slim.config, tiny_family(family).names.experts), slim.config.num_experts_per_tok) == (4, 2)


def test_a_layer_with_one_expert_sends_every_token_there(deployment: Deployment, tmp_path: Path) -> None:
    request = deployment.request("olmoe", method=EXPERTS, target={"ratio": 0.85})
    plan_of, result = planned(deployment, request), deployment.run(request)
    [widths] = result.widths
    assert (widths.slim, widths.per_token) == (1, DenseSlim(dense=2, slim=1))
    assert plan_of.widths == result.widths
    deployment.download(tmp_path)
    assert "fewer_experts_per_token" in (tmp_path / "report.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.num_experts_per_tok == 1


@pytest.mark.parametrize(
    "method",
    [
        {"criterion": "router_weight", "scope": "global", "normalisation": "none"},
        {"criterion": "attribution", "steps": 2, "controls": True},
        {"criterion": "gisp", "units": ["experts", "heads"]},
        {"criterion": "magnitude", "units": ["experts", "layers"], "scope": "global"},
    ],
    ids=str,
)
def test_options_of_a_job_hold_for_experts(deployment: Deployment, method: dict[str, Any]) -> None:
    result = deployment.run(deployment.request("qwen3_moe", method=EXPERTS | method))
    assert result.parameters.slim < result.parameters.dense


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_layers_keep_different_numbers_of_experts(deployment: Deployment, family: str) -> None:
    method = EXPERTS | {"criterion": "random", "scope": "global"}
    layout: dict[str, Any] = {"output": {"layout": "per_layer"}, "target": {"ratio": 5 / 16}}
    result = deployment.run(deployment.request(family, method=method, **layout))
    assert result.verified.loader.startswith("PerLayer")
    assert len(set(result.widths[0].per_layer or ())) == 2
    again = layout | {"model": {"uri": (deployment.scratch / "output/model").as_uri()}}
    second = deployment.run(deployment.request(family, method=method, **again))
    assert second.parameters.dense == result.parameters.slim > second.parameters.slim


NEURONS: dict[str, Any] = {"units": ["ffn"], "repair": "none"}
BOTH: dict[str, Any] = {"units": ["experts", "ffn"], "scope": "global"}
ROUNDED: dict[str, Any] = {"round_to": 8}
# Family -> (stack, part, dense, slim) of its neurons where half of them are removed.
HALVES: dict[str, list[tuple[str | None, int, int]]] = {
    "mixtral": [("expert_ffn", 48, 24)],
    "qwen3_moe": [("expert_ffn", 16, 8)],
    "qwen2_moe": [("expert_ffn", 16, 8), ("shared_ffn", 24, 16)],
    "olmoe": [("expert_ffn", 48, 24)],
    "gpt_oss": [("expert_ffn", 48, 24)],
    "glm4_moe": [(None, 48, 24), ("expert_ffn", 16, 8), ("shared_ffn", 16, 8)],
}


@pytest.mark.parametrize("family", having(Unit.experts))
def test_a_job_removes_neurons_of_experts_as_its_plan_says(deployment: Deployment, family: str, tmp_path: Path) -> None:
    request = deployment.request(family, method=NEURONS, target={"ratio": 0.5}, output=ROUNDED)
    plan_of, result = planned(deployment, request), deployment.run(request)
    assert [(widths.part, widths.dense, widths.slim) for widths in result.widths] == HALVES[family]
    assert plan_of.widths == result.widths
    assert plan_of.parameters.model_dump() == result.parameters.model_dump()
    assert plan_of.bytes.model_dump() == result.bytes.model_dump()
    deployment.download(tmp_path)
    slim = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert slim.num_parameters() == result.parameters.slim
    assert logits(slim).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("qwen3_moe", {}),
        ("glm4_moe", {}),
        ("qwen2_moe", {"units": ["ffn", "layers"], "scope": "global"}),
        ("mixtral", {"repair": "least_squares", "criterion": "attribution"}),
    ],
    ids=str,
)
def test_a_job_repairs_neurons_of_experts(deployment: Deployment, family: str, method: dict[str, Any]) -> None:
    result = deployment.run(deployment.request(family, method=method, target={"ratio": 0.5}, output=ROUNDED))
    assert result.verified.max_abs_logit_difference < 1e-4
    assert result.parameters.slim < result.parameters.dense


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "glm4_moe"])
def test_experts_and_their_neurons_share_one_budget(deployment: Deployment, family: str) -> None:
    request = deployment.request(family, method=BOTH, target={"ratio": 0.6}, output=ROUNDED)
    result = deployment.run(request)
    parts = {(widths.unit, widths.part): widths for widths in result.widths}
    assert parts[Unit.experts, None].slim < 8
    assert result.parameters.slim < result.parameters.dense
    planned_size = planned(deployment, request).parameters.slim
    assert result.parameters.slim == pytest.approx(planned_size, rel=0.1)


def test_layers_keep_experts_of_different_widths(deployment: Deployment) -> None:
    method = NEURONS | {"criterion": "random", "scope": "global", "normalisation": "none"}
    layout: dict[str, Any] = {"output": ROUNDED | {"layout": "per_layer"}, "target": {"ratio": 0.25}}
    result = deployment.run(deployment.request("mixtral", method=method, **layout))
    assert result.verified.loader.startswith("PerLayer")
    assert len(set(result.widths[0].per_layer or ())) == 2


def test_the_same_share_of_experts_and_their_neurons_is_refused(deployment: Deployment) -> None:
    with pytest.raises(ValueError, match="give `scope: global`"):
        deployment.request("mixtral", method={"units": ["experts", "ffn"]})


def test_widths_of_experts_are_multiples_that_grouped_products_take(deployment: Deployment) -> None:
    request = deployment.request("mixtral", method=NEURONS, target={"ratio": 0.6}, output={"round_to": 1})
    assert planned(deployment, request).widths == deployment.run(request).widths
    assert planned(deployment, request).widths[0].slim == 16
    request = deployment.request("mixtral", method=NEURONS, target={"ratio": 0.95}, output={"round_to": 1})
    assert isinstance(refusal(deployment, request), TargetUnreachable)


def test_the_first_layers_of_a_glm_stay(deployment: Deployment) -> None:
    method = {"units": ["layers"], "repair": "none", "criterion": "magnitude", "scope": "global"}
    error = refusal(deployment, deployment.request("glm4_moe", method=method, target={"ratio": 0.5}))
    assert error.param == "method.protect_first"
    assert "set `protect_first` to 1 or more" in error.message


def test_a_router_of_groups_keeps_two_experts_of_each(deployment: Deployment) -> None:
    request = deployment.request("glm4_moe", method=EXPERTS, target={"ratio": 0.9})
    assert isinstance(refusal(deployment, request), TargetUnreachable)


def test_experts_with_groups_are_not_merged(deployment: Deployment) -> None:
    error = refusal(deployment, deployment.request("glm4_moe", method=MERGING, target={"ratio": 0.5}))
    assert error.param == "method.merge"


@pytest.mark.parametrize(("family", "method"), [("mixtral", EXPERTS), ("qwen3_moe", BOTH), ("glm4_moe", BOTH)], ids=str)
def test_indices_of_experts_make_the_checkpoint(
    deployment: Deployment, family: str, method: dict[str, Any], tmp_path: Path
) -> None:
    output: dict[str, Any] = ROUNDED | {"formats": ["indices", "safetensors"]}
    deployment.run(deployment.request(family, method=method, target={"ratio": 0.5}, output=output))
    deployment.download(tmp_path)
    base = deployment.root / family
    apply_kept(tmp_path / "kept.safetensors", FetchedModel(base, base, None), None, tmp_path / "applied")
    made, shipped = (load_file(tmp_path / name / "model.safetensors") for name in ("applied", "model"))
    assert made.keys() == shipped.keys()
    assert all(torch.equal(made[name], shipped[name]) for name in made)


def test_indices_that_leave_experts_of_unequal_widths_are_refused(deployment: Deployment, tmp_path: Path) -> None:
    output: dict[str, Any] = ROUNDED | {"formats": ["indices"]}
    deployment.run(deployment.request("mixtral", method=NEURONS, target={"ratio": 0.5}, output=output))
    deployment.download(tmp_path)
    path, base = tmp_path / "kept.safetensors", deployment.root / "mixtral"
    kept, origin = read_kept(path)
    site = Site("decoder", 0, "expert_ffn")
    save_kept({**kept, site: torch.arange(kept[site].numel())}, origin, path)
    with pytest.raises(InvalidData, match="not the same number in each of its 8 rows"):
        apply_kept(path, FetchedModel(base, base, None), None, tmp_path / "applied")
    assert not (tmp_path / "applied").exists()


def test_files_with_the_tensors_of_all_experts_are_read(deployment: Deployment, tmp_path: Path) -> None:
    directory = deployment.root / "mixtral"
    model = checkpoints.write(directory, "mixtral")
    save_file(model.state_dict(), directory / "model.safetensors", {"format": "pt"})
    request = deployment.request("mixtral", method=EXPERTS, target={"ratio": 0.25})
    plan_of, result = planned(deployment, request), deployment.run(request)
    assert plan_of.bytes.model_dump() == result.bytes.model_dump()
    deployment.download(tmp_path)
    assert any(".experts.3.w1." in name for name in load_file(tmp_path / "model/model.safetensors"))


def refusal(deployment: Deployment, request: JobRequest) -> TaskslimError:
    """The error of a request, which plan and job have to agree on."""
    with pytest.raises(TaskslimError) as of_plan:
        planned(deployment, request)
    with pytest.raises(TaskslimError) as of_job:
        deployment.run(request)
    assert (type(of_plan.value), of_plan.value.param) == (type(of_job.value), of_job.value.param)
    return of_plan.value


def test_a_model_without_experts_is_refused(deployment: Deployment) -> None:
    error = refusal(deployment, deployment.request("llama", method=EXPERTS))
    assert isinstance(error, UnsupportedUnit)
    assert error.message == "llama: the layers of this family have no experts"


def without(*names: str) -> Any:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(names)}
        save_file(kept, directory / "model.safetensors", {"format": "pt"})

    return change


def configured(**fields: Any) -> Any:
    return lambda directory: checkpoints.change_json(directory / "config.json", **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("experts.3.w3.weight"), "lack the matrix w3 of the expert 3 of model.layers.0"),
        (without("experts.7.w1.weight", "experts.7.w2.weight", "experts.7.w3.weight"), "has 7 experts"),
        (configured(num_experts_per_tok=9), "sends each token to 9 experts"),
        (configured(num_local_experts=6), "says 6 in 'num_local_experts'"),
    ],
)
def test_files_whose_experts_do_not_fit_are_refused(deployment: Deployment, change: Any, message: str) -> None:
    request = deployment.request("mixtral", method=EXPERTS)
    change(deployment.root / "mixtral")
    error = refusal(deployment, request)
    assert isinstance(error, InvalidModel)
    assert message in error.message


@pytest.mark.parametrize("fields", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}])
def test_layers_without_experts_are_refused(deployment: Deployment, fields: dict[str, Any]) -> None:
    request = deployment.request("qwen3_moe", method=EXPERTS)
    checkpoints.change_json(deployment.root / "qwen3_moe/config.json", **fields)
    assert "some layers have no experts" in refusal(deployment, request).message


@pytest.mark.parametrize("criterion", ["surgeon", "activation", "wanda", "flap"])
def test_criteria_without_a_formula_for_experts_are_refused(deployment: Deployment, criterion: str) -> None:
    error = refusal(deployment, deployment.request("mixtral", method=EXPERTS | {"criterion": criterion}))
    assert "no formula for the unit experts" in error.message or "not defined for experts" in error.message


@pytest.mark.parametrize("criterion", ["frequency", "router_weight", "reap", "easy_ep"])
def test_criteria_of_experts_are_refused_for_other_units(deployment: Deployment, criterion: str) -> None:
    method = {"units": ["heads"], "criterion": criterion, "repair": "none"}
    assert isinstance(refusal(deployment, deployment.request("mixtral", method=method)), UnsupportedUnit)


@pytest.mark.parametrize("repair", ["bias", "least_squares", "least_squares_layerwise"])
def test_repairs_are_refused_for_experts(deployment: Deployment, repair: str) -> None:
    with pytest.raises(ValueError, match="give `repair: none`"):
        deployment.request("mixtral", method=EXPERTS | {"repair": repair})


def test_heads_of_a_model_with_experts_are_repaired(deployment: Deployment) -> None:
    result = deployment.run(deployment.request("mixtral", method={"units": ["heads"]}, target={"ratio": 0.5}))
    assert result.parameters.slim < result.parameters.dense


@pytest.mark.parametrize(("family", "units"), [("mixtral", "experts"), ("glm4_moe", "experts"), ("glm4_moe", "ffn")])
def test_a_model_in_half_precision_is_slimmed(deployment: Deployment, family: str, units: str) -> None:
    model = TINY[family]().bfloat16()
    for name, buffer in model.named_buffers():
        if name.endswith(CORRECTION):
            buffer.data = buffer.data.float()  # as in every checkpoint
    checkpoints.save(deployment.root / family, model)
    method = {"units": [units], "repair": "none"}
    request = deployment.request(family, method=method, target={"ratio": 0.5}, output=ROUNDED)
    plan_of, result = planned(deployment, request), deployment.run(request)
    assert result.verified.max_abs_logit_difference < 1e-4
    assert plan_of.bytes.model_dump() == result.bytes.model_dump()
    assert logits(AutoModelForCausalLM.from_pretrained(deployment.scratch / "output/model")).isfinite().all()


MERGING: dict[str, Any] = EXPERTS | {"merge": "uncurl"}


@pytest.mark.parametrize("family", mergeable())
@pytest.mark.parametrize("router", ["log_sum_exp", "mean"])
def test_merged_experts_are_verified_and_counted_as_removed_ones(
    deployment: Deployment, family: str, router: str
) -> None:
    request = deployment.request(family, method=MERGING | {"merged_router": router}, target={"ratio": 0.5})
    plan_of, result = planned(deployment, request), deployment.run(request)
    assert plan_of.widths == result.widths
    assert plan_of.parameters.model_dump() == result.parameters.model_dump()
    assert plan_of.bytes.model_dump() == result.bytes.model_dump()
    dense, slim = (load_file(path / "model.safetensors") for path in (deployment.root / family, shipped(deployment)))
    experts = [tensor for name, tensor in slim.items() if ".experts." in name]
    own = [tensor for tensor in experts if any(torch.equal(tensor, other) for other in dense.values())]
    assert len(own) < len(experts)  # an expert that is alone in its cluster stays as it is


def shipped(deployment: Deployment) -> Path:
    return deployment.scratch / "output/model"


@pytest.mark.parametrize(
    "target", [{"sweep": [0.25, 0.5], "artifacts": [0.25]}, {"keep_metric": 0.01}, {"bytes": 300_000}], ids=str
)
def test_searches_merge_every_candidate(deployment: Deployment, target: dict[str, Any]) -> None:
    result = deployment.run(deployment.request("olmoe", method=MERGING, target=target))
    assert result.bytes.slim == (shipped(deployment) / "model.safetensors").stat().st_size < result.bytes.dense
    assert "merged into one" in " ".join((shipped(deployment) / "README.md").read_text().split())


def test_a_bound_of_bytes_counts_the_file_that_is_written(deployment: Deployment) -> None:
    request = deployment.request("mixtral", method=EXPERTS, target={"ratio": 0.5})
    size = planned(deployment, request).bytes.slim
    again = deployment.request("mixtral", method=EXPERTS, target={"bytes": size})
    assert deployment.run(again).bytes.slim == planned(deployment, again).bytes.slim == size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": {"merge": "uncurl"}}, r"give `units: \[experts\]`"),
        ({"method": MERGING | {"criterion": "attribution"}}, "criteria frequency, router_weight, reap, easy_ep"),
        ({"method": MERGING | {"steps": 2}}, "does not go with `steps`"),
        ({"method": MERGING | {"controls": True}}, "does not go with `controls`"),
        ({"method": MERGING, "output": {"formats": ["indices"]}}, "experts that `method.merge` makes"),
    ],
)
def test_options_that_do_not_go_with_a_merge_are_refused(
    deployment: Deployment, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        deployment.request("mixtral", **fields)


def test_a_rule_for_the_router_needs_a_merge(deployment: Deployment) -> None:
    request = deployment.request("mixtral", method=EXPERTS | {"merged_router": "mean"})
    with pytest.raises(InvalidRequest, match="`merged_router` has an effect only with `merge`"):
        check_idle_options(request)


def test_indices_of_merged_experts_make_no_checkpoint(deployment: Deployment, tmp_path: Path) -> None:
    deployment.run(deployment.request("mixtral", method=MERGING, target={"ratio": 0.5}))
    deployment.download(tmp_path)
    base = deployment.root / "mixtral"
    with pytest.raises(InvalidRequest, match="merged experts"):
        apply_kept(tmp_path / "kept.safetensors", FetchedModel(base, base, None), None, tmp_path / "applied")


def test_interleaved_experts_are_not_merged(deployment: Deployment) -> None:
    error = refusal(deployment, deployment.request("gpt_oss", method=MERGING, target={"ratio": 0.5}))
    assert error.param == "method.merge"
