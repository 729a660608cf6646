"""Scores of neurons within experts, against the gradients of the weights that read them and against masked models.

Shape suffixes: E experts, I neurons of an expert, U neurons of all experts.
"""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.options import Unit
from tests.support.architecture_rows import having
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import margin, token_scores
from worker.slimming.units.groups import Group, Site
from worker.slimming.units.locating import locate

families = pytest.mark.parametrize("family", having(Unit.experts))
SITE = Site("decoder", 1, "expert_ffn")


def group_of(model: PreTrainedModel) -> Group:
    """The neurons of the experts of the second layer."""
    groups = locate(model, ARCHITECTURES[model.config.model_type], ["ffn"])
    return next(group for group in groups if group.site == SITE)


def score_U(model: PreTrainedModel, family: str, criterion: str, size: int) -> Tensor:
    data, architecture = batches(family, examples(6), size), ARCHITECTURES[model.config.model_type]
    return score(model, architecture, ["ffn"], data, criterion, Options(), general=data).scores[SITE]


def effect_U(model: PreTrainedModel, family: str) -> Tensor:
    """The mean square over examples of the derivative of the margin by a factor of the weights that read a neuron."""
    group = group_of(model)
    weight, dim = model.get_parameter(group.slices[0].parameter), group.slices[0].dim
    weight.requires_grad_()
    squares = []
    for batch in batches(family, examples(6), 1):
        [gradient] = torch.autograd.grad(margin(token_scores(model, batch), batch).sum(), weight)
        squares.append((gradient * weight.detach()).sum(3 - dim).flatten().square())
    weight.requires_grad_(False)
    return torch.stack(squares).mean(0)


@families
@pytest.mark.parametrize("size", [1, 4])
def test_attribution_is_the_effect_of_the_weights_that_read_a_neuron(family: str, size: int) -> None:
    model = TINY[family]().requires_grad_(False)
    model.set_experts_implementation("eager")
    expected_U = effect_U(model, family)
    found_U = score_U(model, family, "attribution", size)
    assert expected_U.count_nonzero() > 0
    torch.testing.assert_close(found_U, expected_U, rtol=1e-3, atol=1e-7 * float(expected_U.max()))


@families
def test_neurons_of_an_expert_without_tokens_have_finite_scores(family: str) -> None:
    model = TINY[family]()
    architecture, sent_E = ARCHITECTURES[model.config.model_type], torch.tensor([0, 3, 4, 7])
    kept = {Site("decoder", 1, "experts"): sent_E}
    served = [name for name, row in CRITERIA.items() if "ffn" not in row.unserved and row.needs != "weights"]
    for criterion in served:
        with masked(model, architecture, kept):
            found_EI = score_U(model, family, criterion, 6).view(group_of(model).rows, -1)
        assert found_EI.isfinite().all()
        if criterion in ("attribution", "second_moment", "surgeon", "activation", "wanda"):
            gone_E = torch.ones(len(found_EI), dtype=torch.bool).index_fill(0, sent_E, False)
            assert (found_EI[gone_E] == 0).all()
            assert found_EI[~gone_E].count_nonzero() > 0


@torch.no_grad()
def test_the_neurons_of_all_experts_are_the_input_of_one_linear_module() -> None:
    model, (batch,) = TINY["qwen3_moe"](), batches("qwen3_moe", examples(6), 6)
    group, outputs = group_of(model), list[Tensor]()
    handle = model.get_submodule(group.module).register_forward_hook(lambda _, __, output: outputs.append(output))
    halves = [torch.arange(start, group.count, 2) for start in (0, 1)]
    for kept_K in (torch.arange(group.count), *halves):
        with masked(model, ARCHITECTURES["qwen3_moe"], {SITE: kept_K}):
            model(**batch.inputs)
    handle.remove()
    torch.testing.assert_close(outputs[1] + outputs[2], outputs[0])
