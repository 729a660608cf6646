import torch

from service.schemas import Criterion
from tests.models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.attribution import score
from worker.slimming.criteria import CRITERIA, Options
from worker.slimming.groups import Site


def test_the_contract_names_every_criterion() -> None:
    assert set(CRITERIA) == set(Criterion)


def test_magnitude_is_the_norm_of_all_weights_of_a_neuron() -> None:
    model = TINY["phi3"]()
    scores = score(model, ARCHITECTURES["phi3"], ["ffn"], [], "magnitude", Options())
    mlp = model.get_submodule("model.layers.1.mlp")
    neuron = torch.cat([mlp.gate_up_proj.weight[7], mlp.gate_up_proj.weight[48 + 7], mlp.down_proj.weight[:, 7]])
    torch.testing.assert_close(scores[Site("decoder", 1, "ffn")][7], neuron.norm())
