from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.support.architecture_rows import distinct, having_blocks
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import measure_moments
from worker.slimming.scoring import attribution, second_moments
from worker.slimming.scoring.attribution import prepared, score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import margin, token_scores
from worker.slimming.scoring.second_moments import Moments, collect, token_weights
from worker.slimming.units.locating import locate

torch.set_num_threads(1)

DOWN = "model.layers.1.mlp.down_proj"


def collected(
    family: str, size: int, objective: str | None = "margin", *, extra_padding: int = 0
) -> dict[str, Moments]:
    model = TINY[family]()
    groups = locate(model, ARCHITECTURES[model.config.model_type], ["ffn"])
    data = batches(family, examples(8, longest_candidate=2), size, extra_padding=extra_padding)
    with prepared(model):
        return collect(model, groups, data, objective, effects=objective is not None)


def test_token_weights_average_one_and_are_half_without_a_gradient() -> None:
    gradient_BTO = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask_BT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    gradient_BTO[2] = 0
    weight_BT = token_weights(gradient_BTO, mask_BT)
    torch.testing.assert_close(weight_BT[0].mean(), torch.tensor(1.0))
    torch.testing.assert_close(weight_BT[1, :2].mean(), torch.tensor(1.0))
    assert weight_BT[2].tolist() == [0.5] * 5


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_scoring_returns_the_moments_that_a_repair_needs(family: str) -> None:
    model, data, architecture = TINY[family](), batches(family, examples(8), 4), ARCHITECTURES[family]
    units = ["ffn", "heads"]
    returned = score(model, architecture, units, data, "surgeon", Options()).moments
    whole = {group.site: torch.arange(group.count) for group in locate(model, architecture, units)}
    taken = measure_moments(
        RepairInput(model, architecture, whole, CalibrationBatches(data, "margin")), "least_squares"
    )
    assert taken is not None
    assert returned is not None
    assert returned.keys() == taken.keys()
    for path, expected in taken.items():
        found = returned[path]
        assert (found.centred, found.num_tokens, found.effect_OO) == (expected.centred, expected.num_tokens, None)
        assert torch.equal(found.spread_CC, expected.spread_CC)
        assert all(map(torch.equal, found.weights_N, expected.weights_N))


def test_moments_of_several_portions_are_kept_where_the_host_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def moments() -> Mapping[str, Moments] | None:
        data = batches("llama", examples(4), 4)
        return score(TINY["llama"](), ARCHITECTURES["llama"], ["ffn"], data, "surgeon", Options()).moments

    together = moments()
    monkeypatch.setattr(second_moments, "budget", lambda device: 1)
    apart = moments()
    assert together is not None
    assert apart is not None
    assert all(torch.equal(apart[path].spread_CC, known.spread_CC) for path, known in together.items())
    monkeypatch.setattr(attribution, "budget", lambda device: 1)
    assert moments() is None


def test_moments_equal_their_closed_forms() -> None:
    model, (batch,) = TINY["llama"](), batches("llama", examples(6), 6)
    seen: dict[str, Tensor] = {}
    handle = model.get_submodule(DOWN).register_forward_hook(
        lambda _, args, output: seen.update(input=args[0], output=output)
    )
    objective = margin(token_scores(model, batch), batch).sum()
    (gradient_BTO,) = torch.autograd.grad(objective, seen["output"])
    handle.remove()
    mask_BT = batch.masks["decoder"]
    hidden_NC, gradient_NO = seen["input"].detach()[mask_BT], gradient_BTO[mask_BT]
    weight_N1 = token_weights(gradient_BTO, mask_BT)[mask_BT].unsqueeze(1)
    groups = locate(model, ARCHITECTURES["llama"], ["ffn"])
    with prepared(model):
        found = collect(model, groups, [batch], "margin", effects=True)[DOWN]
    assert found.gram_CC is not None
    assert found.effect_OO is not None
    torch.testing.assert_close(found.gram_CC, hidden_NC.T @ (weight_N1 * hidden_NC), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.effect_OO, gradient_NO.T @ gradient_NO, rtol=1e-4, atol=1e-8)
    assert found.num_tokens == int(mask_BT.sum())


@pytest.mark.parametrize("family", distinct(having_blocks()))
@pytest.mark.parametrize("objective", ["margin", None])
def test_moments_depend_on_the_rows_alone(family: str, objective: str | None) -> None:
    expected = collected(family, 8, objective)
    found = collected(family, 3, objective, extra_padding=2)
    assert expected.keys() == found.keys()
    for path, one in expected.items():
        torch.testing.assert_close(found[path].spread_CC, one.spread_CC, rtol=1e-3, atol=1e-5)
        assert found[path].num_tokens == one.num_tokens


def test_scores_do_not_depend_on_the_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores() -> tuple[list[Tensor], list[int]]:
        reported: list[int] = []
        data = batches("llama", examples(6), 4)
        model = TINY["llama"]()
        found = score(
            model, ARCHITECTURES["llama"], ["ffn", "heads"], data, "surgeon", Options(), reported.append
        ).scores
        return list(found.values()), reported

    together, _ = scores()
    monkeypatch.setattr(second_moments, "budget", lambda device: 1)
    apart, reported = scores()
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    assert reported == sorted(reported)
    assert reported[-1] == 6
