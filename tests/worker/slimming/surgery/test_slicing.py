from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from service.contract.options import Unit
from service.models.families.table import FAMILIES, keeps_first_layer
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, family_of_model, tiny_family
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.scoring.objectives import Batch
from worker.slimming.selection import Rules, best, select
from worker.slimming.surgery.slicing import cut, groups_of
from worker.slimming.units.groups import Kept, Site, UnitUnavailable
from worker.slimming.units.locating import locate

torch.set_num_threads(1)


def inputs(family: str) -> Batch:
    return batches(family, examples(5), 5)[0]


@torch.no_grad()
def logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    result: torch.Tensor = model(**batch.inputs).logits
    return result[batch.masks["decoder"]] if result.dim() == 3 else result


def precise(family: str) -> PreTrainedModel:
    """A model in float64, because the unscaled attention of T5 amplifies rounding; experts have no kernels for that."""
    model = TINY[family]()
    return model if FAMILIES[model.config.model_type].names.experts else model.double()


def half_of_the_units(model: PreTrainedModel, *units: str) -> Kept:
    groups = locate(model, ARCHITECTURES[model.config.model_type], units or ["ffn"])
    draw = torch.Generator().manual_seed(1)
    scores = {group.site: torch.rand(group.count, generator=draw) for group in groups}
    keeps_first = keeps_first_layer(family_of_model(model), model.config.to_dict())
    return select(scores, groups, 0.5, round_to=4, rules=Rules(protect_first=int(keeps_first)))


EVERY_UNIT = [
    (family, units)
    for family in TINY
    for units in (
        *((unit.value,) for unit in Unit if unit is not Unit.vocabulary),
        ("ffn", "heads", "head_dims", "layers"),
        ("heads", "experts"),
        ("ffn", "experts"),
        ("ffn", "heads", "experts"),
        ("heads", "layers", "experts"),
    )
    if set(units) <= set(tiny_family(family).units)
]


@pytest.mark.parametrize(("family", "units"), EVERY_UNIT)
def test_slicing_equals_masking_and_loads_by_the_stock_class(
    family: str, units: tuple[str, ...], tmp_path: Path
) -> None:
    model, batch = precise(family), inputs(family)
    architecture, kept = ARCHITECTURES[model.config.model_type], half_of_the_units(model, *units)
    groups, dense, dense_size = locate(model, architecture, units), logits(model, batch), model.num_parameters()
    with masked(model, architecture, kept):
        expected = logits(model, batch)
    assert not torch.allclose(dense, expected, atol=1e-3)
    assert torch.equal(dense, logits(model, batch))
    cut(model, architecture, kept)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    removed = sum((group.count - kept[group.site].numel()) * group.parameters for group in groups)
    if len(units) == 1:  # a layer holds units of the other kinds
        assert dense_size - model.num_parameters() == removed
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path).eval()
    assert reloaded.num_parameters() == model.num_parameters() < dense_size
    torch.testing.assert_close(logits(reloaded, batch), logits(model, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gone", [0, 1])
@pytest.mark.parametrize("family", ["olmo3", "smollm3", "exaone4"])
def test_the_layers_that_stay_keep_their_kind(family: str, gone: int, tmp_path: Path) -> None:
    model, batch = TINY[family](), inputs(family)
    architecture = ARCHITECTURES[family]
    kept = {Site("decoder", layer, "layers"): torch.arange(int(layer != gone)) for layer in (0, 1)}
    with masked(model, architecture, kept):
        expected = logits(model, batch)
    cut(model, architecture, kept)
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(reloaded, batch), expected, atol=1e-5, rtol=1e-4)


def test_keeping_every_unit_changes_nothing() -> None:
    model, batch = TINY["llama"](), inputs("llama")
    dense = logits(model, batch)
    groups = locate(model, ARCHITECTURES["llama"], ["ffn"])
    cut(model, ARCHITECTURES["llama"], {group.site: torch.arange(group.count) for group in groups})
    assert torch.equal(logits(model, batch), dense)


def test_unequal_widths_of_one_config_field_are_refused() -> None:
    model = TINY["llama"]()
    kept = {**half_of_the_units(model), Site("decoder", 1, "ffn"): torch.arange(7)}
    with pytest.raises(ValueError, match="holds one width"):
        cut(model, ARCHITECTURES["llama"], kept)


def test_bart_can_have_another_width_in_each_stack() -> None:
    model = TINY["bart"]()
    cut(model, ARCHITECTURES["bart"], half_of_the_units(model))
    assert (model.config.encoder_ffn_dim, model.config.decoder_ffn_dim) == (24, 20)


def test_the_removed_slices_equal_those_of_torch_pruning() -> None:
    import torch_pruning

    model = TINY["llama"]()
    mlp = model.get_submodule("model.layers.0.mlp")
    graph = torch_pruning.DependencyGraph().build_dependency(mlp, example_inputs=torch.randn(1, 3, 32))
    removed = [3, 17, 40]
    oracle = graph.get_pruning_group(mlp.gate_proj, torch_pruning.prune_linear_out_channels, idxs=removed)
    oracle.prune()
    expected = {name: parameter.detach().clone() for name, parameter in mlp.named_parameters()}
    other = TINY["llama"]()
    kept = torch.tensor([unit for unit in range(48) if unit not in removed])
    cut(other, ARCHITECTURES["llama"], {Site("decoder", layer, "ffn"): kept for layer in (0, 1)})
    for name, parameter in other.get_submodule("model.layers.0.mlp").named_parameters():
        assert torch.equal(parameter, expected[name])


@pytest.mark.parametrize("family", TINY)
def test_slicing_equals_masking_with_different_widths_per_layer(family: str) -> None:
    model, batch = precise(family), inputs(family)
    architecture = ARCHITECTURES[model.config.model_type]
    units = [unit for unit in ("ffn", "heads", "experts") if unit in FAMILIES[model.config.model_type].units]
    draw = torch.Generator().manual_seed(1)
    kept = {}
    for group in locate(model, architecture, units):
        if not group.level:
            count = group.count * (group.site.layer + 1) // 2
            kept[group.site] = best(torch.rand(group.count, generator=draw), count, group.rows)
    with masked(model, architecture, kept):
        expected = logits(model, batch)
    cut(model, architecture, kept, layout="per_layer")
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in TINY if Unit.layers in tiny_family(name).refused])
def test_layers_that_the_contract_keeps_are_no_units(name: str) -> None:
    with pytest.raises(UnitUnavailable, match="fails without some of its layers"):
        locate(TINY[name](), ARCHITECTURES[tiny_family(name).model_type], ["layers"])


@pytest.mark.parametrize("name", [name for name in TINY if Unit.layers in tiny_family(name).units])
def test_a_first_layer_goes_where_the_contract_lets_it_go(name: str) -> None:
    model, family = TINY[name](), tiny_family(name)
    architecture = ARCHITECTURES[family.model_type]
    kept = {group.site: torch.arange(group.site.layer) for group in locate(model, architecture, ["layers"])}
    if keeps_first_layer(family, model.config.to_dict()):
        with pytest.raises(ValueError, match="no other can take its place"):
            cut(model, architecture, kept)
    else:
        batch = inputs(name)
        with masked(model, architecture, kept):
            expected = logits(model, batch)
        cut(model, architecture, kept)
        torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key", ["decoder.9.ffn", "encoder.0.ffn", "decoder.0.neurons", "decoder.0.cross_heads"])
def test_site_that_the_model_does_not_have_is_refused(key: str) -> None:
    known = Site("decoder", 0, "ffn")
    with pytest.raises(ValueError, match=f"no units {key}"):
        groups_of(TINY["llama"](), ARCHITECTURES["llama"], {known: torch.arange(4), Site.parse(key): torch.arange(1)})
