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
    expand, contract = (
        model.get_parameter(f"model.layers.1.mlp.{name}.weight") for name in ("gate_up_proj", "down_proj")
    )
    neuron = torch.cat([expand[7], expand[48 + 7], contract[:, 7]])
    torch.testing.assert_close(scores[Site("decoder", 1, "ffn")][7], neuron.norm())
