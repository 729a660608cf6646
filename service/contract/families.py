"""The model families that can be slimmed, as far as the API must know them: data, not code.

`worker.slimming.architectures` says where the tensors are; a test holds the two tables together.
"""

from collections.abc import Mapping
from typing import Any

from service.contract.catalog import Family
from service.contract.errors import InvalidModel, UnsupportedFamily
from service.contract.options import Criterion, Unit
from service.contract.per_layer import is_per_layer

WIDTHS = [Unit.ffn, Unit.layers]
HEADS = [Unit.ffn, Unit.heads, Unit.layers]
T5 = [Unit.ffn, Unit.heads, Unit.head_dims, Unit.layers]

DERIVED_SIZE = (
    "a stock config derives the size of a head from hidden size and head count, so it cannot hold fewer heads"
)
TIED_DIMENSIONS = "rotary positions or a stock config tie the dimensions of a head to each other"
NO_DIMENSIONS = {"head_dims": TIED_DIMENSIONS}
NO_HEADS = NO_DIMENSIONS | {"heads": DERIVED_SIZE}

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(model_type="llama", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="mistral", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="qwen2", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="qwen3", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="gemma2", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="gemma3_text", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="phi3", kind="causal", units=HEADS, refused=NO_DIMENSIONS),
        Family(model_type="gpt2", kind="causal", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="opt", kind="causal", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="gpt_neox", kind="causal", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="t5", kind="encoder_decoder", units=T5),
        Family(model_type="mt5", kind="encoder_decoder", units=T5),
        Family(model_type="bart", kind="encoder_decoder", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="bert", kind="classifier", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="roberta", kind="classifier", units=WIDTHS, refused=NO_HEADS),
        Family(model_type="distilbert", kind="classifier", units=WIDTHS, refused=NO_HEADS),
    )
}

# What a criterion's formula does not cover; `worker.slimming.scoring.criteria` has the formulas.
UNSERVED: dict[Criterion, tuple[Unit, ...]] = {
    Criterion.wanda: (Unit.head_dims, Unit.layers),
    Criterion.flap: (Unit.head_dims, Unit.layers),
}


def family_of(config: Mapping[str, Any], uri: str) -> Family:
    """The family that the config of the model at `uri` names. Raises InvalidModel, UnsupportedFamily."""
    if "auto_map" in config and not is_per_layer(config):
        message = f"{uri} asks for code of its own (`auto_map` in config.json), which is never run"
        raise InvalidModel(message, param="model.uri")
    if "quantization_config" in config:
        raise InvalidModel(f"the weights of {uri} are quantised: give the unquantised checkpoint", param="model.uri")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"{uri} is of the family {model_type!r}; there are {', '.join(sorted(FAMILIES))}"
        raise UnsupportedFamily(message, param="model.uri")
    return FAMILIES[model_type]
