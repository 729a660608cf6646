"""The rows of `worker.slimming.architectures`, and those of the contract that describe the same families."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.options import Unit
from service.models.families.table import FAMILIES
from service.models.tensors.names import StackNames
from tests.support.architecture_rows import having
from tests.support.family_cases import FAST
from tests.support.tiny_models import TINY, inputs_of, tiny_family
from worker.slimming.architectures import ARCHITECTURES, Stack
from worker.slimming.units.groups import VOCABULARY, Site, UnitUnavailable
from worker.slimming.units.layers import layers_of
from worker.slimming.units.locating import UNITS, locate
from worker.slimming.units.vocabulary import vocabulary_parameters


def test_contract_and_worker_have_a_row_for_the_same_families() -> None:
    assert set(ARCHITECTURES) == set(FAMILIES)


def test_every_family_has_a_tiny_model() -> None:
    assert {tiny_family(name).model_type for name in TINY} == set(FAMILIES)


def test_the_fast_families_have_every_kind_of_model_and_every_unit() -> None:
    fast = [tiny_family(name) for name in FAST]
    assert {family.kind for family in fast} == {tiny_family(name).kind for name in TINY}
    assert {unit for family in fast for unit in family.units} == {
        unit for name in TINY for unit in tiny_family(name).units
    }


@pytest.mark.parametrize("name", TINY)
def test_tiny_model_is_of_the_class_that_the_row_names(name: str) -> None:
    assert type(TINY[name]()).__name__ == tiny_family(name).model_class


@pytest.mark.parametrize("name", TINY)
def test_family_refuses_the_units_that_its_architecture_lacks(name: str) -> None:
    model, family = TINY[name](), tiny_family(name)
    in_layers = [unit for unit in Unit if unit is not Unit.vocabulary]
    assert {unit for unit in in_layers if not has_unit(model, unit)} == set(family.refused) - {Unit.vocabulary}


def has_unit(model: PreTrainedModel, unit: Unit) -> bool:
    try:
        return bool(locate(model, ARCHITECTURES[model.config.model_type], [unit]))
    except UnitUnavailable:
        return False


@pytest.mark.parametrize("name", TINY)
def test_contract_and_architecture_name_the_same_tensors(name: str) -> None:
    model, family = TINY[name](), tiny_family(name)
    units = [unit.value for unit in family.units if unit not in (Unit.layers, Unit.vocabulary)]
    groups = locate(model, ARCHITECTURES[family.model_type], units)
    located = {(group.kind, part.parameter, part.dim) for group in groups for part in group.slices}
    assert located == {found for stack in family.names.stacks for found in named_tensors(model, stack, units)}


@pytest.mark.parametrize("name", having(Unit.vocabulary))
def test_contract_and_worker_find_the_same_rows_of_the_vocabulary(name: str) -> None:
    model, names = TINY[name](), tiny_family(name).names
    in_files = (names.embedding, *names.further_embeddings, *names.tied)
    named = {name.replace("embed_out", "lm_head") for name in in_files}  # the class renames the head of a GPT-NeoX
    assert set(vocabulary_parameters(model)) == named & dict(model.named_parameters()).keys()


def named_tensors(model: nn.Module, stack: StackNames, units: list[str]) -> Iterator[tuple[str, str, int]]:
    """(unit, parameter, dimension) of every parameter that a row of the stack matches."""
    layer = re.compile(rf"(?:.*\.)?{re.escape(stack.layers)}\.\d+\.(.*)")
    parameters = [(name, layer.fullmatch(name), tensor.dim()) for name, tensor in model.named_parameters()]
    for parameter, in_layer, dims in parameters:
        for row in stack.unit_tensors:
            if in_layer and row.unit in units and re.fullmatch(row.pattern, in_layer[1]) and row.dim < dims:
                yield row.unit.value, parameter, row.dim


@pytest.mark.parametrize("model_type", FAMILIES)
def test_contract_and_architecture_name_the_same_config_fields(model_type: str) -> None:
    names, architecture = FAMILIES[model_type].names, ARCHITECTURES[model_type]
    for in_files, in_model in zip(names.stacks, architecture.stacks, strict=True):
        assert in_files.name == in_model.name
        assert in_files.part == in_model.part
        assert in_model.layers.endswith(in_files.layers)
        assert in_files.bias == in_model.feed_forward.bias
        for attention in in_model.attention:
            fields = (attention.heads, attention.key_value_heads, attention.head_size, attention.divides_where)
            assert fields == (names.heads, names.key_value_heads, names.head_size, names.head_counts_divide)


@pytest.mark.parametrize("name", TINY)
def test_feed_forward_block_is_added_to_the_stream_that_the_row_names(name: str) -> None:
    model = TINY[name]()
    for stack in ARCHITECTURES[model.config.model_type].stacks:
        stream, block = first_stream(model, stack)
        without, _ = first_stream(model, stack, factor=0.0)
        added = float(getattr(model.config, stack.added_times, 1.0)) * block
        is_added = torch.allclose((stream - without).flatten(), added.flatten(), atol=1e-4)
        assert is_added is (stack.stream_behind(model.config) is not None)


@torch.no_grad()
def first_stream(model: PreTrainedModel, stack: Stack, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """(residual stream behind the first layer, output of its feed-forward block), the latter multiplied by a factor.

    Where the row says that the stream cannot be observed, the first is the output of the layer.
    """
    layer, seen = layers_of(model, stack)[0], dict[str, Tensor]()

    def at_block(_: nn.Module, __: object, output: Tensor) -> Tensor:
        seen["block"] = output * factor
        return seen["block"]

    def at_norm(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["stream"] = inputs[0]

    def at_end(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen["stream"] = output[0] if isinstance(output, tuple) else output

    norm = stack.stream_behind(model.config)
    hooks = [layer.get_submodule(stack.feed_forward.contract).register_forward_hook(at_block)]
    hooks.append(
        layer.get_submodule(norm).register_forward_pre_hook(at_norm) if norm else layer.register_forward_hook(at_end)
    )
    model(**inputs_of(model))
    for hook in hooks:
        hook.remove()
    return seen["stream"], seen["block"]


def test_site_survives_its_string_form() -> None:
    site = Site("decoder", 11, "ffn")
    assert str(site) == "decoder.11.ffn"
    assert Site.parse(str(site)) == site


def test_contract_lists_the_units() -> None:
    assert {*UNITS, VOCABULARY.unit} == set(Unit)
