"""Targets of a quantisation: they name the modules that the library of compressed-tensors says."""

import pytest
from compressed_tensors.utils.match import match_name

from service.models.quantisation.module_targets import check_target, most_specific, names
from service.models.quantisation.settings import NotDequantised

MODULES = [
    "lm_head",
    "model.embed_tokens",
    "model.layers.1.mlp.up_proj",
    "model.layers.11.mlp.down_proj",
    "model.layers.11.self_attn.q_proj",
    "model.layers.2.self_attn.mlp_proj",
]
TARGETS = [
    "lm_head",
    "mlp.up_proj",
    "re:.*mlp.*",
    "re:.*self_attn",
    r"re:.*\.mlp\.(up|down)_proj$",
    r"re:model\.layers\.(1|2)\..*",
    r"re:^model\.layers\.\d+\.self_attn\..*proj$",
    r"re:model\.layers\.[0-9]\..*_proj",
    "re:.*layers.*mlp.*proj",
    "re:mlp",
    "re:.*_proj$",
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_names_the_modules_that_the_library_says(target: str) -> None:
    check_target(target)
    found = [module for module in MODULES if names(target, module)]
    assert found == [module for module in MODULES if match_name(module, target)]


def test_names_are_before_expressions_and_those_before_classes() -> None:
    module = "model.layers.1.mlp.up_proj"
    assert most_specific(["Linear", "re:.*up_proj", module], module) == module
    assert most_specific(["Linear", "re:.*up_proj"], module) == "re:.*up_proj"
    assert most_specific(["Linear", "Embedding"], module) == "Linear"
    assert most_specific(["Linear", "Embedding"], "model.embed_tokens") == "Embedding"


@pytest.mark.parametrize(
    "target", ["re:(a+)+$", "re:(a|a)*b", "re:a?a?a?b", "re:(", "re:" + "a" * 300, "re:(.*mlp)", "re:.*a|b"]
)
def test_expressions_that_may_take_long_are_refused(target: str) -> None:
    with pytest.raises(NotDequantised, match="is not read"):
        check_target(target)
