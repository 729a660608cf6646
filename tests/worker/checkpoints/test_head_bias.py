"""The module whose bias contains the label offsets."""

import pytest
import torch

from service.models.families.family import CLASSIFIERS
from tests.support.tiny_models import TINY, WITH_TOKEN_HEAD, logits, tiny_family
from worker.checkpoints.head_bias import add_to_bias, head_of

HEADS = {name: make for name, make in TINY.items() if tiny_family(name).kind in CLASSIFIERS} | {
    f"{name}, tokens": make for name, make in WITH_TOKEN_HEAD.items()
}


@pytest.mark.parametrize("name", HEADS)
def test_numbers_in_the_bias_are_added_to_the_outputs_of_the_head(name: str) -> None:
    model = HEADS[name]()
    if tiny_family(name.removesuffix(", tokens")).kind == "decoder_classifier":
        assert head_of(model) is None  # its head has no bias
        return
    before = logits(model)
    offset_V = torch.linspace(-1, 2, model.config.num_labels, dtype=torch.float64)
    added_V = add_to_bias(model, offset_V, torch.float32)
    torch.testing.assert_close(added_V, offset_V, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(model), before + added_V.float(), atol=1e-6, rtol=0)
