from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from service.contract import options
from tests.support.architecture_rows import distinct, having_blocks
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, tiny_family
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.repair import ridge
from worker.slimming.repair.bias import RepairUnavailable
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import FITTED, REPAIRS, measure_moments, repair
from worker.slimming.scoring import second_moments
from worker.slimming.selection import select
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Kept, Site
from worker.slimming.units.locating import locate

torch.set_num_threads(1)


def has_biases(name: str) -> bool:
    """Whether the feed-forward modules of a tiny model have biases, or its config a field that gives them some."""
    model = TINY[name]()
    (row, *_) = ARCHITECTURES[model.config.model_type].stacks
    return bool(row.feed_forward.bias or f"{row.layers}.0.{row.feed_forward.contract}.bias" in model.state_dict())


NAMES = distinct(having_blocks())
WITH_BIAS = [name for name in NAMES if has_biases(name)]


def rows(family: str, size: int = 8) -> CalibrationBatches:
    return CalibrationBatches(batches(family, examples(24), size), "margin")


def repair_input(model: PreTrainedModel, family: str, kept: Kept) -> RepairInput:
    return RepairInput(model, ARCHITECTURES[model.config.model_type], kept, rows(family))


def half(model: PreTrainedModel, *units: str) -> Kept:
    groups = locate(model, ARCHITECTURES[model.config.model_type], units)
    draw = torch.Generator().manual_seed(2)
    return select({group.site: torch.rand(group.count, generator=draw) for group in groups}, groups, 0.5, 4)


@torch.no_grad()
def first_outputs(model: PreTrainedModel, family: str, kept: Kept) -> Tensor:
    """The output of the first repaired module for each token, with only the `kept` units (N, O)."""
    architecture = ARCHITECTURES[model.config.model_type]
    group = locate(model, architecture, ["ffn"])[0]
    outputs: list[Tensor] = []
    for batch in rows(family).batches:
        mask = batch.masks[group.site.stack].flatten()
        module = model.get_submodule(group.module)
        handle = module.register_forward_hook(
            lambda _, args, output, mask=mask: outputs.append(output.reshape(-1, output.shape[-1])[mask])
        )
        with masked(model, architecture, kept):
            model(**batch.inputs)
        handle.remove()
    return torch.cat(outputs)


EVERY_REPAIR = [(family, method) for family in NAMES for method in REPAIRS if method != "bias" or family in WITH_BIAS]


@pytest.mark.parametrize(("family", "method"), EVERY_REPAIR)
def test_a_repair_brings_the_output_nearer_to_the_dense_one(family: str, method: str) -> None:
    model = TINY[family]()
    kept, dense = half(model, "ffn"), first_outputs(model, family, {})
    cut_only = (first_outputs(model, family, kept) - dense).square().mean()
    assert repair(repair_input(model, family, kept), method) is model
    assert (first_outputs(model, family, kept) - dense).square().mean() < 0.99 * cut_only


@pytest.mark.parametrize("family", [family for family in NAMES if family not in WITH_BIAS])
def test_the_bias_repair_is_refused_for_a_family_without_biases(family: str) -> None:
    model = TINY[family]()
    with pytest.raises(RepairUnavailable, match="no bias"):
        repair(repair_input(model, family, half(model, "ffn")), "bias")


@pytest.mark.parametrize("family", WITH_BIAS)
def test_the_bias_repair_keeps_the_mean_output(family: str) -> None:
    model = TINY[family]()
    dense, kept = first_outputs(model, family, {}).mean(0), half(model, "ffn")
    repair(repair_input(model, family, kept), "bias")
    torch.testing.assert_close(first_outputs(model, family, kept).mean(0), dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
def test_removing_duplicate_neurons_changes_no_logits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "share", lambda inputs, tokens, least: 1e-9)
    model = TINY["llama"]()
    for layer in (0, 1):
        for name in ("gate_proj", "up_proj"):
            weight = model.get_parameter(f"model.layers.{layer}.mlp.{name}.weight").data
            weight[24:] = weight[:24]
    (batch,) = batches("llama", examples(24), 24)
    with torch.no_grad():
        dense = model(**batch.inputs).logits
    kept = {Site("decoder", layer, "ffn"): torch.arange(24) for layer in (0, 1)}
    repair(RepairInput(model, ARCHITECTURES["llama"], kept, CalibrationBatches([batch], "margin")), method)
    cut(model, ARCHITECTURES["llama"], kept)
    with torch.no_grad():
        slim = model(**batch.inputs).logits
    mask = batch.masks["decoder"]
    torch.testing.assert_close(slim[mask], dense[mask], atol=2e-3, rtol=1e-2)


def test_a_strong_ridge_leaves_the_kept_columns_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "share", lambda inputs, tokens, least: 1e9)
    model = TINY["llama"]()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    repair(repair_input(model, "llama", half(model, "ffn", "heads")), "least_squares")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
def test_a_repair_with_known_moments_equals_one_that_measures_them(method: str) -> None:
    models = [TINY["llama"](), TINY["llama"]()]
    kept = half(models[0], "ffn", "heads")
    moments = measure_moments(repair_input(models[0], "llama", kept), method)
    assert moments is not None
    repair(repair_input(models[0], "llama", kept), method)
    repair(replace(repair_input(models[1], "llama", kept), moments=moments), method)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


EVERY_CONSUMER = [
    (family, unit) for family in distinct() for unit in ("heads", "head_dims") if unit in tiny_family(family).units
]


@pytest.mark.parametrize(("family", "unit"), EVERY_CONSUMER)
def test_least_squares_changes_the_output_projections_of_attention_alone(family: str, unit: str) -> None:
    model = TINY[family]()
    kept = half(model, unit)
    watched = {group.module for group in locate(model, ARCHITECTURES[model.config.model_type], [unit])}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    repair(repair_input(model, family, kept), "least_squares")
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    consumers = {
        f"{path}.{name}"
        for path in watched
        if path.endswith(("o", "o_proj"))
        for name, _ in model.get_submodule(path).named_parameters()
    }
    assert changed == consumers


def test_least_squares_does_not_depend_on_the_batch_size() -> None:
    fitted = []
    for size in (3, 24):
        model = TINY["t5"]()
        kept = half(model, "ffn", "heads")
        repair(RepairInput(model, ARCHITECTURES["t5"], kept, rows("t5", size)), "least_squares")
        fitted.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(fitted[0], fitted[1], atol=2e-3, rtol=1e-3)


def _append(progress: list[tuple[int, int]], done: int, total: int) -> None:
    progress.append((done, total))


def test_a_repair_with_one_gram_matrix_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    for size in (2**30, 1):
        monkeypatch.setattr(second_moments, "budget", lambda device, size=size: size)
        model, progress = TINY["llama"](), list[tuple[int, int]]()
        count = partial(_append, progress)
        repair(replace(repair_input(model, "llama", half(model, "ffn")), on_progress=count), "least_squares")
        fitted.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
        assert progress[-1][0] == progress[-1][1]
    assert progress == [(done, 6) for done in range(1, 7)]
    assert torch.equal(*fitted)


@torch.no_grad()
def test_a_llama_with_compensated_biases_loads_by_the_stock_class(tmp_path: Path) -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(24), 24)
    kept = half(model, "ffn")
    repair(RepairInput(model, ARCHITECTURES["llama"], kept, CalibrationBatches([batch], "margin")), "bias")
    cut(model, ARCHITECTURES["llama"], kept)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert reloaded.config.mlp_bias
    torch.testing.assert_close(reloaded(**batch.inputs).logits, model(**batch.inputs).logits)


def test_the_contract_lists_the_repairs_and_those_that_fit_weights() -> None:
    assert set(options.Repair) == {"none", *REPAIRS}
    assert set(options.FITTED) == FITTED
