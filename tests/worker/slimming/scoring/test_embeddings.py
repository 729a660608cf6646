"""The objective of embeddings: an estimate of how far each unit moves the direction of the embedding."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.support.tiny_models import encoder
from worker.slimming.architectures import architecture_of
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.embeddings import pooled
from worker.slimming.scoring.objectives import Batch

TEXT = [[5, 9, 17, 30, 2], [41, 8, 2]]
REPEATS = 1500  # of each text, with another direction for each
PROJECTION = Options(objective="projection", token_reduction="sum", example_reduction="square")


def batch_of(texts: list[list[int]], pooling: str, first: int = 0) -> Batch:
    """A batch with a text in each row, padded on the right; examples are numbered from `first`."""
    longest = max(map(len, texts))
    input_ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask_BT = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    none, number_E = torch.empty(0, dtype=torch.int64), torch.arange(len(texts))
    return Batch(
        inputs={"input_ids": input_ids, "attention_mask": mask_BT},
        masks={"encoder": mask_BT.bool()},
        example_B=number_E,
        row_P=none,
        position_P=none,
        place_M=none,
        token_M=none,
        question_M=none,
        label_M=none,
        right_Q=torch.zeros_like(number_E),
        example_Q=number_E,
        index_E=number_E + first,
        num_labels=0,
        pooling=pooling,
    )


def jacobian(text: list[int], layer: int, pooling: str) -> Tensor:
    """The derivative of the normalised embedding of a text by a factor on each neuron of a layer (D, U)."""
    model = encoder("bert")
    reader = model.get_submodule(f"encoder.layer.{layer}.output.dense")
    assert isinstance(reader, nn.Linear)
    factor_U = torch.ones(reader.in_features, requires_grad=True)
    reader.register_forward_pre_hook(lambda _, args: (args[0] * factor_U,))
    hidden_BTD = model(input_ids=torch.tensor([text])).last_hidden_state
    embedding_D = normalize(pooled(hidden_BTD, torch.ones(1, len(text)).bool(), pooling), dim=1)[0]
    return torch.stack([torch.autograd.grad(part, factor_U, retain_graph=True)[0] for part in embedding_D])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_attribution_estimates_the_norm_of_the_jacobian(pooling: str) -> None:
    model = encoder("bert")
    batches = [batch_of(TEXT * 250, pooling, first) for first in range(0, 2 * REPEATS, 500)]
    found = score(model, architecture_of(model), ["ffn"], batches, "attribution", PROJECTION).scores
    for site, score_U in found.items():
        exact_U = torch.stack([jacobian(text, site.layer, pooling).square().sum(dim=0) for text in TEXT]).mean(dim=0)
        # A mean of squares of N normal numbers has a relative standard error of sqrt(2 / N), here 0.03.
        assert torch.allclose(score_U, exact_U, rtol=0.2)


@pytest.mark.parametrize("criterion", ["attribution", "surgeon", "second_moment", "gisp"])
def test_scores_do_not_depend_on_batches(criterion: str) -> None:
    model = encoder("bert")
    texts = [TEXT[index % 2] + [index + 3] for index in range(12)]
    whole = [batch_of(texts, "mean")]
    parts = [batch_of(texts[start : start + 3], "mean", start) for start in range(0, 12, 3)]
    one, other = (
        score(model, architecture_of(model), ["ffn"], batches, criterion, PROJECTION).scores
        for batches in (whole, parts[::-1])
    )
    assert all(torch.allclose(one[site], other[site], rtol=1e-3) for site in one)


def test_poolings_read_their_tokens_alone() -> None:
    hidden_BTD = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask_BT = batch_of(TEXT, "mean").masks["encoder"]
    assert torch.allclose(pooled(hidden_BTD, mask_BT, "mean")[1], hidden_BTD[1, :3].mean(dim=0))
    assert torch.equal(pooled(hidden_BTD, mask_BT, "cls"), hidden_BTD[:, 0])
    assert torch.equal(pooled(hidden_BTD, mask_BT, "last"), torch.stack([hidden_BTD[0, 4], hidden_BTD[1, 2]]))
    with pytest.raises(ValueError, match="there is no pooling 'max'"):
        pooled(hidden_BTD, mask_BT, "max")
