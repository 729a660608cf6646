"""The rows of the model families. tests/worker/slimming/test_architectures.py compares them with loaded models."""

import pytest

from service.contract.options import Unit
from service.models.families.family import DERIVED_SIZE, TIED_DIMENSIONS, ModelFamily
from service.models.families.runtimes.table import RUNTIMES, runtimes_after
from service.models.families.table import FAMILIES
from tests.support.planning import sizes

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
def test_a_refused_unit_has_a_reason_and_a_runtime_has_traits(family: ModelFamily) -> None:
    assert all(family.refused.values())
    assert set(family.runtimes) <= set(RUNTIMES)


@families
def test_every_unit_but_layers_has_tensors(family: ModelFamily) -> None:
    for stack in family.names.stacks:
        assert {row.unit for row in stack.unit_tensors} == set(family.units) - {Unit.layers, Unit.vocabulary}


@pytest.mark.parametrize(
    ("model_type", "units"),
    [
        ("llama", [Unit.ffn, Unit.heads, Unit.layers, Unit.vocabulary]),
        ("gpt2", [Unit.ffn, Unit.layers, Unit.vocabulary]),
        ("olmo2", [Unit.ffn, Unit.layers, Unit.vocabulary]),
        ("t5", [Unit.ffn, Unit.heads, Unit.head_dims, Unit.layers, Unit.vocabulary]),
        ("bert", [Unit.ffn, Unit.layers, Unit.vocabulary]),
        ("marian", [Unit.ffn, Unit.layers]),
        ("mixtral", [Unit.ffn, Unit.heads, Unit.layers, Unit.experts, Unit.vocabulary]),
        ("olmoe", [Unit.ffn, Unit.layers, Unit.experts, Unit.vocabulary]),
    ],
)
def test_a_family_has_the_units_that_its_stock_config_can_hold(model_type: str, units: list[Unit]) -> None:
    assert FAMILIES[model_type].units == units


@pytest.mark.parametrize(
    ("model_type", "runtimes"),
    [
        ("llama", {"transformers", "vllm", "sglang", "llama.cpp", "mlx-lm"}),
        ("gpt2", {"transformers", "vllm", "sglang", "llama.cpp"}),
        ("gpt_neox", {"transformers", "vllm", "llama.cpp"}),
        ("opt", {"transformers", "vllm"}),
        ("t5", {"transformers", "llama.cpp"}),
        ("distilbert", {"transformers"}),
        ("xlm-roberta", {"transformers", "vllm", "llama.cpp"}),
    ],
)
def test_plan_shows_the_runtimes_that_load_the_family(model_type: str, runtimes: set[str]) -> None:
    found = runtimes_after(sizes(model_type))
    assert {runtime.name for runtime in found if runtime.loads} == runtimes


def test_capabilities_show_units_and_refusals() -> None:
    described = FAMILIES["gpt2"].described
    assert (described.model_type, described.kind) == ("gpt2", "causal")
    assert described.units == [Unit.ffn, Unit.layers, Unit.vocabulary]
    without_experts = "the layers of this family have no experts"
    assert described.refused == {"heads": DERIVED_SIZE, "head_dims": TIED_DIMENSIONS, "experts": without_experts}
