"""The configs of a Gemma 4 that are refused, and those beside them that are not."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from service.contract.errors import InvalidModel
from service.models.families.config_checks import check_settings
from service.models.families.table import FAMILIES
from service.models.tensors import gemma4
from service.models.tensors.unused import may_be_unused
from tests.support.tiny_models import GEMMA4, LLAMA, SHARED_KEYS

FAMILY = FAMILIES[gemma4.MODEL_TYPE]
CONFIG = {"model_type": gemma4.MODEL_TYPE} | LLAMA | GEMMA4
SHARED = CONFIG | SHARED_KEYS


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (CONFIG | {"enable_moe_block": True}, "enable_moe_block"),
        (SHARED | {"use_double_wide_mlp": True}, "use_double_wide_mlp"),
        (CONFIG | {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
    ],
)
def test_a_model_that_cannot_be_slimmed_is_refused_by_its_field(config: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidModel, match=named):
        check_settings(config, FAMILY)


FAILING = [
    (SHARED | {"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input"),
    (SHARED | {"layer_types": ["sliding_attention", "full_attention"]}, "num_kv_shared_layers"),
    (SHARED | {"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
    (CONFIG | {"vocab_size_per_layer_input": 64}, "vocab_size_per_layer_input"),
    (CONFIG | {"per_layer_config": {"1": {"head_dim": 16, "intermediate_size": 24}}}, "intermediate_size"),
]


@pytest.mark.parametrize(("config", "named"), FAILING)
def test_a_config_is_refused_with_which_the_stock_class_fails(config: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidModel, match=named):
        check_settings(config, FAMILY)
    with pytest.raises((ValueError, TypeError, IndexError, RuntimeError)):
        answer(config)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        SHARED,
        CONFIG | {"use_double_wide_mlp": True, "use_bidirectional_attention": "vision"},
        CONFIG | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64},
        CONFIG | {"per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 1}}},
    ],
)
def test_a_config_is_accepted_with_which_the_stock_class_computes(config: dict[str, Any]) -> None:
    check_settings(config, FAMILY)
    assert answer(config).isfinite().all()


def answer(config: dict[str, Any]) -> torch.Tensor:
    """The logits of the stock class for the last token of the vocabulary."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    logits: torch.Tensor = model(input_ids=torch.tensor([[5, LLAMA["vocab_size"] - 1]])).logits
    return logits


@pytest.mark.parametrize("layers", [1, 2, 5, 6, 7, 12])
def test_layer_types_that_config_json_leaves_out_are_those_of_the_stock_class(layers: int) -> None:
    config = {"num_hidden_layers": layers}
    assert gemma4.layer_types(config) == AutoConfig.for_model(gemma4.MODEL_TYPE, **config).layer_types


def test_keys_are_unused_in_layers_that_read_those_of_others() -> None:
    names = [f"model.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 1)]
    assert [may_be_unused(name, gemma4.MODEL_TYPE, SHARED) for name in names] == [False, True]
    assert not any(may_be_unused(name, gemma4.MODEL_TYPE, CONFIG) for name in names)
