"""Which slim models a graph of ONNX can hold."""

from typing import Any

import pytest

from service.contract.options import Unit
from service.exports.model import ExportedModel
from service.exports.onnx import DECODERS, ENCODER_DECODERS, ENCODERS, WRITTEN, against_model
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.models.families.table import FAMILIES, with_head


def against(family: str, model_class: str = "", **config: Any) -> str | None:
    row = with_head(FAMILIES[family], model_class)
    return against_model(ExportedModel(row, config, [Unit.ffn], own_widths=True))


def test_families_with_graphs_have_a_row() -> None:
    assert {FAMILIES[name].kind for name in DECODERS} == {"causal"}
    assert {FAMILIES[name].kind for name in ENCODERS} == {"classifier"}
    assert {FAMILIES[name].kind for name in ENCODER_DECODERS} == {"encoder_decoder"}
    assert {against(name) for name in WRITTEN} == {None}
    assert against("bert", TOKEN_CLASSIFIERS["bert"]) is None
    assert against("bert", "BertModel") is None


@pytest.mark.parametrize(
    ("family", "model_class", "config", "reason"),
    [
        ("bart", "", {}, "only of"),
        ("llama", DECODER_CLASSIFIERS["llama"], {}, "classification head"),
        ("olmo2", "", {}, "only of"),
        ("phi3", "", {"rope_parameters": {"rope_type": "longrope"}}, "'longrope' depend on the length"),
        ("llama", "", {"rope_scaling": {"type": "dynamic"}}, "'dynamic' depend on the length"),
    ],
)
def test_other_models_are_refused_with_what_works(
    family: str, model_class: str, config: dict[str, Any], reason: str
) -> None:
    found = against(family, model_class, **config) or ""
    assert reason in found
    assert "leave `onnx` out of `output.formats`" in found
