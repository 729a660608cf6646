"""What config.json leaves out: the plan supposes what the stock class does, and refuses what the class fails with."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from service.contract.errors import InvalidModel
from service.models.families.config_checks import LAYER_LISTS, check_settings
from service.models.families.table import FAMILIES
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import head_counts, head_size
from tests.support.tiny_models import TINY, tiny_family
from worker.slimming.surgery import slicing

DECODERS = [
    name
    for name, family in ((name, tiny_family(name)) for name in TINY)
    if family.kind == "causal" and tuple(family.tensors.layers) == ("model.layers",)
]
SIZES = {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 4, "hidden_size": 256}


def heads_of_class(config: dict[str, Any]) -> tuple[int, int, int] | None:
    """(query heads, key-value heads, size of a head) of the stock class; None where it fails."""
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    except Exception:  # of any kind: the class fails in its own code
        return None
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    outputs = (tensor for name, tensor in model.named_parameters() if name.endswith("self_attn.o_proj.weight"))
    inputs = next(outputs).shape[1]
    return heads, groups, inputs // heads


def heads_of_plan(config: dict[str, Any]) -> tuple[int, int, int] | None:
    """The same as a plan supposes; None where it refuses."""
    checkpoint = Checkpoint(FAMILIES[config["model_type"]], config, {}, 0)
    try:
        check_settings(config, FAMILIES[config["model_type"]])
        return *head_counts(checkpoint, checkpoint.last_stack), head_size(checkpoint, checkpoint.last_stack)
    except InvalidModel:
        return None


@pytest.mark.parametrize("name", DECODERS)
def test_a_plan_supposes_the_heads_of_the_stock_class(name: str) -> None:
    whole = TINY[name]().config.to_dict() | SIZES
    for field in ("num_key_value_heads", "head_dim"):
        absent = {key: value for key, value in whole.items() if key != field}
        for config in (whole, absent, absent | {field: None}):
            assert heads_of_plan(config) == heads_of_class(config), (field, config.get(field, "absent"))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_plan_supposes_the_heads_of_each_part_of_the_stock_t5gemma(part: str) -> None:
    sizes = SIZES | {"vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    family, other = FAMILIES["t5gemma"], "decoder" if part == "encoder" else "encoder"
    stack = next(stack for stack in family.names.stacks if stack.part == part)
    changes: list[dict[str, Any]] = [{}, {"pad_token_id": 8}, {"layer_types": []}]
    for field in ("num_key_value_heads", "head_dim"):
        changes += [{field: None}, {field: "absent"}]
    for change in changes:
        own = {key: value for key, value in (sizes | change).items() if value != "absent"}
        config = {"model_type": "t5gemma", "vocab_size": 8, "pad_token_id": 0, part: own, other: sizes}
        checkpoint = Checkpoint(family, config, {}, 0)
        try:
            check_settings(config, family)
            planned = (*head_counts(checkpoint, stack), head_size(checkpoint, stack))
        except InvalidModel:
            planned = None
        assert planned == heads_of_part(config, part), change


def heads_of_part(config: dict[str, Any], part: str) -> tuple[int, int, int] | None:
    """As `heads_of_class`, of one part of a T5Gemma."""
    try:
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**deepcopy(config)))
        row = getattr(model.config, part)
        model(input_ids=torch.tensor([[1]]), decoder_input_ids=torch.tensor([[1]]))
    except Exception:  # of any kind: the class fails in its own code
        return None
    inputs = model.get_parameter(f"model.{part}.layers.0.self_attn.o_proj.weight").shape[1]
    return row.num_attention_heads, row.num_key_value_heads, inputs // row.num_attention_heads


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gemma2", {"layer_types": ["full_attention"]}),
        ("smollm3", {"no_rope_layers": []}),
        ("smollm3", {"no_rope_layers": [1, 0, 1]}),
        ("exaone4", {"sliding_window": None, "layer_types": None}),
        ("exaone4", {"sliding_window": None}),
        ("exaone4", {"sliding_window_pattern": "LG", "layer_types": None}),
    ],
    ids=str,
)
def test_a_pattern_of_layers_is_refused_where_the_stock_class_fails(name: str, fields: dict[str, Any]) -> None:
    config = TINY[name]().config.to_dict() | fields
    assert (heads_of_plan(config) is None) is (heads_of_class(config) is None)


def test_lists_with_an_entry_for_each_layer_are_those_that_a_cut_shortens() -> None:
    assert LAYER_LISTS == slicing.LAYER_LISTS
