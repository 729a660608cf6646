"""The rows of the model families. tests/worker/slimming/test_architectures.py compares them with loaded models."""

import pytest

from service.contract.options import Unit
from service.families.runtimes import SERVERS, runtimes_after
from service.families.table import FAMILIES, ModelFamily

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
def test_family_has_or_refuses_every_unit(family: ModelFamily) -> None:
    assert set(family.units) | set(family.refused) == set(Unit)
    assert not set(family.units) & set(family.refused)
    assert all(family.refused.values())


@families
def test_every_unit_but_layers_has_tensors(family: ModelFamily) -> None:
    for stack in family.names.stacks:
        assert {row.unit for row in stack.unit_tensors} | {Unit.layers} == set(family.units)


@families
def test_plan_shows_the_runtimes_of_the_row(family: ModelFamily) -> None:
    assert set(family.runtimes) <= set(SERVERS)
    found = runtimes_after([Unit.ffn], family.model_type, widths=[256], heads=8, head_size=64)
    loading = {runtime.name for runtime in found if runtime.loads}
    assert loading == {"transformers", *family.runtimes}


@families
def test_capabilities_show_units_and_refusals(family: ModelFamily) -> None:
    assert family.described.units == family.units
    assert family.described.refused == dict(family.refused)
