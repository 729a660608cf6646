"""Which runtimes load layers of different widths."""

import pytest

from service.contract.options import Unit
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.models.families.runtimes.per_layer_limits import IN_BACK_END, IN_PLUGIN, REFUSED
from service.models.families.runtimes.table import runtimes_of_unequal_widths
from service.models.families.table import FAMILIES, with_head


def unequal(family: str, unit: Unit = Unit.ffn, model_class: str = "") -> dict[str, str]:
    """Runtime -> how it loads layers of different widths, or "no:" and why it does not."""
    found = runtimes_of_unequal_widths(with_head(FAMILIES[family], model_class), [unit])
    return {each.name: f"{'' if each.loads else 'no: '}{each.reason}" for each in found}


def test_vllm_loads_layers_of_different_widths_of_the_families_that_were_compared() -> None:
    assert unequal("llama")["transformers"].startswith("with trust_remote_code=True")
    assert "plugin taskslim-vllm" in unequal("llama")["vllm"]
    assert "plugin" not in unequal("olmo2")["vllm"]
    for family in IN_BACK_END:
        assert unequal(family)["vllm"].startswith("with `--trust-remote-code`")
    for name in ("sglang", "llama.cpp", "mlx-lm"):
        assert unequal("llama")[name].startswith("no: ")
        assert '`output.layout: "uniform"`' in unequal("llama")[name]


@pytest.mark.parametrize(
    ("family", "unit", "model_class", "reason"),
    [
        ("bert", Unit.ffn, "", "one width"),
        ("t5", Unit.ffn, "", "no architecture"),
        ("mixtral", Unit.experts, "", "no architecture"),
        ("granite", Unit.ffn, "", "logits_scaling"),
        ("qwen3_5_text", Unit.ffn, "", "was not tested"),
        ("llama", Unit.ffn, DECODER_CLASSIFIERS["llama"], "was not tested"),
        ("bert", Unit.ffn, TOKEN_CLASSIFIERS["bert"], "was not tested"),
    ],
)
def test_vllm_is_not_promised_for_other_layers_of_different_widths(
    family: str, unit: Unit, model_class: str, reason: str
) -> None:
    found = unequal(family, unit, model_class)["vllm"]
    assert found.startswith("no: ")
    assert reason in found


def test_families_with_unequal_layers_in_vllm_are_decoders_with_a_row() -> None:
    assert set(IN_PLUGIN) <= set(IN_BACK_END)
    assert not set(IN_BACK_END) & set(REFUSED)
    assert {FAMILIES[name].kind for name in (*IN_BACK_END, *REFUSED)} == {"causal"}
