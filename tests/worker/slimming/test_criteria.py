import pytest
import torch
from torch import Tensor

from service.families import UNSERVED
from service.schemas import Criterion
from tests.models import TINY
from tests.worker.slimming.batches import batches, examples
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.attribution import score
from worker.slimming.criteria import CRITERIA, Options
from worker.slimming.groups import Site, UnitUnavailable
from worker.slimming.objectives import margin, token_log_probabilities

FFN = Site("decoder", 1, "ffn")
HEADS = Site("decoder", 1, "heads")
LLAMA = ARCHITECTURES["llama"]


def scores_of(criterion: str, options: Options = Options(), units: tuple[str, ...] = ("ffn",)) -> dict[Site, Tensor]:  # noqa: B008
    return score(TINY["llama"](), LLAMA, units, batches("llama", examples(6), 4), criterion, options)


@torch.no_grad()
def activations(module: str) -> Tensor:
    """The module's inputs at all tokens of the calibration rows (N, C), float64."""
    model, (batch,) = TINY["llama"](), batches("llama", examples(6), 6)
    seen: list[Tensor] = []
    model.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**batch.inputs)
    return seen[0][batch.masks["decoder"]].double()


def test_the_contract_names_every_criterion() -> None:
    assert set(CRITERIA) == set(Criterion)


def test_the_api_knows_what_a_criterion_does_not_cover() -> None:
    assert {Criterion(name): row.refused for name, row in CRITERIA.items() if row.refused} == UNSERVED


def test_magnitude_is_the_norm_of_all_weights_of_a_neuron() -> None:
    model = TINY["phi3"]()
    scores = score(model, ARCHITECTURES["phi3"], ["ffn"], [], "magnitude", Options())
    expand, contract = (
        model.get_parameter(f"model.layers.1.mlp.{name}.weight") for name in ("gate_up_proj", "down_proj")
    )
    neuron = torch.cat([expand[7], expand[48 + 7], contract[:, 7]])
    torch.testing.assert_close(scores[FFN][7], neuron.norm())


def test_activation_statistics_have_their_closed_forms() -> None:
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


def test_a_key_value_group_scores_the_sum_of_its_channels() -> None:
    hidden_NC = activations("model.layers.1.self_attn.o_proj")
    weight_OC = TINY["llama"]().get_parameter("model.layers.1.self_attn.o_proj.weight").detach().double()
    expected = (hidden_NC.norm(dim=0) * weight_OC.abs().mean(0)).view(2, 16).sum(1)
    scores = scores_of("wanda", units=("heads",))[HEADS]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5)


def test_second_moment_is_one_setting_of_attribution() -> None:
    setting = Options(token_reduction="square", example_reduction="sum")
    assert torch.equal(scores_of("second_moment")[FFN], scores_of("attribution", setting)[FFN])


def test_reverse_removes_first_what_attribution_keeps_longest() -> None:
    assert torch.equal(scores_of("reverse")[FFN], -scores_of("attribution")[FFN])


def test_gisp_is_the_sum_of_weights_times_their_gradients() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(6), 6)
    torch.autograd.backward(margin(token_log_probabilities(model, batch), batch).sum())
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
    made = batches(family, examples(4, longest_candidate=2), 4)  # one decoder position attends to nothing but itself
    architecture = ARCHITECTURES[family]
    if unit in CRITERIA[criterion].refused:
        with pytest.raises(UnitUnavailable, match=f"{criterion} is not defined for {unit}"):
            score(model, architecture, [unit], made, criterion, Options())
        return
    scores = score(model, architecture, [unit], made, criterion, Options())
    assert all(values.isfinite().all() and values.abs().sum() > 0 for values in scores.values())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_the_effect_of_a_layer_is_what_it_adds_times_the_gradient() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(3), 3)
    seen: dict[str, Tensor] = {}
    layer = model.get_submodule("model.layers.1")
    layer.register_forward_pre_hook(lambda _, args: seen.update(before=args[0]))
    layer.register_forward_hook(lambda _, args, output: seen.update(after=output))
    objective = margin(token_log_probabilities(model, batch), batch).sum()
    (gradient,) = torch.autograd.grad(objective, seen["after"])
    product_BT = ((seen["after"] - seen["before"]) * gradient).sum(-1) * batch.masks["decoder"]
    expected = product_BT.sum(1).square().mean()
    fresh = score(TINY["llama"](), LLAMA, ["layers"], [batch], "attribution", Options())
    torch.testing.assert_close(fresh[Site("decoder", 1, "layers")].squeeze(), expected.detach(), rtol=1e-4, atol=1e-7)
