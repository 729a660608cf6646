from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tests.support.tiny_models import TINY, causal, decoder_classifier
from worker.checkpoints.model_classes.llama_as_mistral import to_stock_class
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Site


@pytest.mark.parametrize(
    ("make", "auto_class"),
    [(causal, AutoModelForCausalLM), (decoder_classifier, AutoModelForSequenceClassification)],
)
@torch.no_grad()
def test_a_llama_with_three_heads_is_saved_as_an_equal_mistral(
    tmp_path: Path, make: Callable[..., PreTrainedModel], auto_class: Any
) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 16, "rope_theta": 5000.0}
    model = make("llama", num_key_value_heads=4, rope_parameters=rope)
    cut(model, ARCHITECTURES["llama"], {Site("decoder", layer, "heads"): torch.tensor([0, 2, 3]) for layer in (0, 1)})
    ids = torch.randint(3, 100, (2, 30), generator=torch.Generator().manual_seed(0))
    to_stock_class(model).save_pretrained(tmp_path)
    reloaded = auto_class.from_pretrained(tmp_path).eval()
    assert reloaded.config.model_type == "mistral"
    torch.testing.assert_close(reloaded(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)


def test_a_model_that_its_stock_class_accepts_is_not_converted() -> None:
    for family in ("llama", "qwen2", "t5"):
        model = TINY[family]()
        assert to_stock_class(model) is model
