import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract import criteria as contract
from service.contract.options import ExampleReduction, Selectivity, TokenReduction, Unit
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, EXAMPLE_REDUCTIONS, TOKEN_REDUCTIONS, Options
from worker.slimming.scoring.objectives import Batch, margin, token_scores
from worker.slimming.scoring.optimal_brain_surgeon import costs
from worker.slimming.units.groups import Scores, Site, UnitUnavailable

FFN = Site("decoder", 1, "ffn")
HEADS = Site("decoder", 1, "heads")
LLAMA = ARCHITECTURES["llama"]
DEFAULTS = Options()


def scores_of(criterion: str, options: Options = DEFAULTS, units: tuple[str, ...] = ("ffn",)) -> Scores:
    rows = batches("llama", examples(6), 4)
    return score(TINY["llama"](), LLAMA, units, rows, criterion, options, general=general_batches()).scores


def general_batches() -> list[Batch]:
    return batches("llama", examples(6, seed=9), 4)


@torch.no_grad()
def activations(module: str, seed: int = 0) -> Tensor:
    """The inputs of a module at all tokens of the calibration rows (N, C), float64."""
    model, (batch,) = TINY["llama"](), batches("llama", examples(6, seed=seed), 6)
    seen: list[Tensor] = []
    model.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**batch.inputs)
    return seen[0][batch.masks["decoder"]].double()


def test_contract_and_worker_have_a_row_for_the_same_criteria() -> None:
    assert set(CRITERIA) == set(contract.CRITERIA)


def test_contract_lists_the_reductions() -> None:
    assert set(TOKEN_REDUCTIONS) == set(TokenReduction)
    assert set(EXAMPLE_REDUCTIONS) == set(ExampleReduction)


@pytest.mark.parametrize("criterion", contract.CRITERIA)
def test_contract_and_formula_agree_on_units_data_and_normalisation(criterion: contract.Criterion) -> None:
    row, formula = contract.CRITERIA[criterion], CRITERIA[criterion]
    assert row.unserved == formula.unserved
    assert row.reads_data == (formula.needs != "weights")
    assert row.normalisation == formula.normalisation
    assert row.needs_general == formula.needs_general


SETTINGS = {
    "has_objective": Options(objective="log_probability"),
    "has_reductions": Options(token_reduction="mean", sign="absolute", example_reduction="sum"),
    "has_seed": Options(seed=1),
}


@pytest.mark.parametrize(
    ("criterion", "unit"),
    [
        (criterion, unit)
        for criterion, row in contract.CRITERIA.items()
        for unit in (Unit.ffn, Unit.experts, Unit.layers)
        if unit not in row.unserved and (unit is not Unit.layers or criterion == "block_influence")
    ],
)
@pytest.mark.parametrize("option", SETTINGS)
def test_option_changes_the_scores_of_the_criteria_that_the_contract_names(
    criterion: contract.Criterion, unit: Unit, option: str
) -> None:
    family, data = ("llama", "mixtral")[unit is Unit.experts], batches("llama", examples(6), 4)
    general = batches("llama", examples(6, seed=9), 4)
    usual, other = (
        score(TINY[family](), ARCHITECTURES[family], [unit], data, criterion, options, general=general).scores
        for options in (DEFAULTS, SETTINGS[option])
    )
    differs = not all(torch.equal(usual[site], other[site]) for site in usual)
    assert getattr(contract.CRITERIA[criterion], option) == differs


def test_magnitude_is_the_norm_of_all_weights_of_a_neuron() -> None:
    model = TINY["phi3"]()
    scores = score(model, ARCHITECTURES["phi3"], ["ffn"], [], "magnitude", Options()).scores
    expand, contract = (
        model.get_parameter(f"model.layers.1.mlp.{name}.weight") for name in ("gate_up_proj", "down_proj")
    )
    neuron = torch.cat([expand[7], expand[48 + 7], contract[:, 7]])
    torch.testing.assert_close(scores[FFN][7], neuron.norm())


def test_activation_criteria_equal_their_closed_forms() -> None:
    hidden_NC = activations("model.layers.1.mlp.down_proj")
    weight_OC = TINY["llama"]().get_parameter("model.layers.1.mlp.down_proj.weight").detach().double()
    raw_C = hidden_NC.var(0, correction=0) * weight_OC.square().sum(0)
    expected = {
        "activation": hidden_NC.abs().mean(0),
        "wanda": hidden_NC.norm(dim=0) * weight_OC.abs().mean(0),
        "flap": (raw_C - raw_C.mean()) / raw_C.std(correction=0),
    }
    for criterion, score_C in expected.items():
        torch.testing.assert_close(scores_of(criterion)[FFN].double(), score_C, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", Selectivity)
def test_selectivity_equals_its_closed_form(form: Selectivity) -> None:
    task_NC, general_NC = (activations("model.layers.1.mlp.down_proj", seed).abs() for seed in (0, 9))
    difference_C = task_NC.mean(0) - general_NC.mean(0)
    expected = {
        "difference": difference_C,
        "ratio": task_NC.mean(0) / general_NC.mean(0),
        "standardised": difference_C / (task_NC.var(0, correction=0) + general_NC.var(0, correction=0)).sqrt(),
    }[form]
    scores = scores_of("selectivity", Options(selectivity=form))[FFN]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5)


def test_score_of_a_key_value_group_is_the_sum_over_its_channels() -> None:
    hidden_NC = activations("model.layers.1.self_attn.o_proj")
    weight_OC = TINY["llama"]().get_parameter("model.layers.1.self_attn.o_proj.weight").detach().double()
    expected = (hidden_NC.norm(dim=0) * weight_OC.abs().mean(0)).view(2, 16).sum(1)
    scores = scores_of("wanda", units=("heads",))[HEADS]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5)


def read_and_effect(model: PreTrainedModel, batch: Batch, module: str) -> tuple[Tensor, Tensor]:
    """The input of a module, and the gradient of the margin with respect to its output, at all tokens (B, T, C)."""
    seen: dict[str, Tensor] = {}
    consumer = model.get_submodule(module)
    consumer.register_forward_pre_hook(lambda _, args: seen.update(read=args[0].detach()))
    consumer.register_forward_hook(lambda _, args, output: seen.update(written=output))
    objective = margin(token_scores(model, batch), batch).sum()
    (gradient_BTO,) = torch.autograd.grad(objective, seen["written"])
    shape = (*batch.inputs["input_ids"].shape, -1)  # OPT flattens rows and positions into one axis
    return seen["read"].double().view(shape), gradient_BTO.double().view(shape)


@pytest.mark.parametrize(
    ("family", "path", "centred"),
    [("llama", "model.layers.1.mlp.down_proj", False), ("opt", "model.decoder.layers.1.fc2", True)],
    ids=["without a bias", "with a bias"],
)
def test_surgeon_is_the_cost_of_a_removal_by_weighted_second_moments(family: str, path: str, centred: bool) -> None:
    model, (batch,) = TINY[family](), batches(family, examples(6), 6)
    read_BTC, effect_BTO = read_and_effect(model, batch, path)
    weight_N, read_N, effect_N = [], [], []
    for mask_T, read_TC, effect_TO in zip(batch.masks["decoder"], read_BTC, effect_BTO, strict=True):
        square_T = effect_TO[mask_T].square().sum(1)
        weight_N.append(0.5 + 0.5 * square_T / square_T.mean())
        read_N.append(read_TC[mask_T])
        effect_N.append(effect_TO[mask_T])
    share_N1 = (torch.cat(weight_N) / torch.cat(weight_N).sum()).unsqueeze(1)
    read_NC, effect_NO = torch.cat(read_N), torch.cat(effect_N)
    if centred:
        read_NC = read_NC - (share_N1 * read_NC).sum(0)
    spread_CC = (share_N1 * read_NC).T @ read_NC
    others = ~torch.eye(len(spread_CC), dtype=torch.bool)
    spread_CC[others] *= len(read_NC) / (len(spread_CC) + len(read_NC))
    spread_CC += 0.01 * spread_CC.diagonal().mean() * torch.eye(len(spread_CC), dtype=torch.float64)
    weight_OC = model.get_parameter(f"{path}.weight").detach().double()
    expected = costs(weight_OC, spread_CC, effect_NO.T @ effect_NO / len(effect_NO), 1)
    fresh = score(TINY[family](), ARCHITECTURES[family], ["ffn"], [batch], "surgeon", Options()).scores
    torch.testing.assert_close(fresh[FFN].double(), expected, rtol=1e-3, atol=0)


def test_surgeon_score_of_a_layer_is_the_mean_square_of_its_attribution() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(6), 6)
    before: list[Tensor] = []
    layer = model.get_submodule("model.layers.1")
    layer.register_forward_pre_hook(lambda _, args: before.append(args[0].detach()))
    after: list[Tensor] = []
    layer.register_forward_hook(lambda _, args, output: after.append(output))
    objective = margin(token_scores(model, batch), batch).sum()
    (gradient_BTO,) = torch.autograd.grad(objective, after[0])
    product_N = ((after[0].detach() - before[0]) * gradient_BTO).sum(-1)[batch.masks["decoder"]]
    fresh = score(TINY["llama"](), LLAMA, ["ffn", "layers"], [batch], "surgeon", Options()).scores
    layer_score = fresh[Site("decoder", 1, "layers")].squeeze()
    torch.testing.assert_close(layer_score, product_N.square().mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", ["llama", "opt", "t5", "gemma2"])
def test_block_influence_is_one_minus_the_cosine_of_the_hidden_states(family: str) -> None:
    """The states that `output_hidden_states` gives, but for the last, which is given behind the final norm."""
    model, (batch,) = TINY[family](), batches(family, examples(6, longest_candidate=2), 6)
    with torch.no_grad():
        output = model(**batch.inputs, output_hidden_states=True)
    scores = score(TINY[family](), ARCHITECTURES[family], ["layers"], [batch], "block_influence", Options()).scores
    for stack in {site.stack for site in scores}:
        states = next(output[name] for name in (f"{stack}_hidden_states", "hidden_states") if name in output)
        first, second = (state[batch.masks[stack]].double() for state in states[:2])
        expected = 1 - ((first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))).mean()
        torch.testing.assert_close(scores[Site(stack, 0, "layers")].double(), expected.view(1), rtol=1e-4, atol=1e-6)


def test_block_influence_of_a_layer_that_turns_nothing_is_zero() -> None:
    model = TINY["llama"]()
    for path in ("self_attn.o_proj", "mlp.down_proj"):
        model.get_parameter(f"model.layers.1.{path}.weight").data.zero_()
    scores = score(model, LLAMA, ["layers"], batches("llama", examples(6), 4), "block_influence", Options()).scores
    assert scores[Site("decoder", 1, "layers")].item() == pytest.approx(0, abs=1e-7)
    assert scores[Site("decoder", 0, "layers")].item() > 0.01


def test_second_moment_is_one_setting_of_attribution() -> None:
    setting = Options(token_reduction="square", example_reduction="sum")
    assert torch.equal(scores_of("second_moment")[FFN], scores_of("attribution", setting)[FFN])


def test_reverse_is_the_negative_of_attribution() -> None:
    assert torch.equal(scores_of("reverse")[FFN], -scores_of("attribution")[FFN])


def test_gisp_is_the_sum_of_weights_times_their_gradients() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(6), 6)
    torch.autograd.backward(margin(token_scores(model, batch), batch).sum())
    expected = torch.zeros(48)
    for name, dim in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0)):
        weight = model.get_parameter(f"model.layers.1.mlp.{name}.weight")
        assert weight.grad is not None
        expected += (weight * weight.grad).abs().sum(dim).detach()
    torch.testing.assert_close(scores_of("gisp")[FFN], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("family", "unit"), [("llama", "heads"), ("t5", "head_dims"), ("t5", "layers")])
def test_every_criterion_scores_every_unit_or_refuses_it(criterion: str, family: str, unit: str) -> None:
    model = TINY[family]()
    # Candidates of two tokens, since a single decoder position attends only to itself.
    data = batches(family, examples(4, longest_candidate=2), 4)
    architecture = ARCHITECTURES[family]
    if unit in CRITERIA[criterion].unserved:
        with pytest.raises(UnitUnavailable, match=f"{criterion} is not defined for {unit}"):
            score(model, architecture, [unit], data, criterion, Options())
        return
    general = batches(family, examples(4, longest_candidate=2, seed=9), 4)
    scores = score(model, architecture, [unit], data, criterion, Options(), general=general).scores
    assert all(values.isfinite().all() and values.abs().sum() > 0 for values in scores.values())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_activation_of_a_layer_is_what_it_adds_to_the_stream() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(3), 3)
    seen: dict[str, Tensor] = {}
    layer = model.get_submodule("model.layers.1")
    layer.register_forward_pre_hook(lambda _, args: seen.update(before=args[0]))
    layer.register_forward_hook(lambda _, args, output: seen.update(after=output))
    objective = margin(token_scores(model, batch), batch).sum()
    (gradient,) = torch.autograd.grad(objective, seen["after"])
    product_BT = ((seen["after"] - seen["before"]) * gradient).sum(-1) * batch.masks["decoder"]
    expected = product_BT.sum(1).square().mean()
    fresh = score(TINY["llama"](), LLAMA, ["layers"], [batch], "attribution", Options()).scores
    torch.testing.assert_close(fresh[Site("decoder", 1, "layers")].squeeze(), expected.detach(), rtol=1e-4, atol=1e-7)
