"""The model families that can be slimmed, and which of them a config.json names.

`decoders`, `encoders` and `encoder_decoders` have one row for each `model_type`. The row holds what the API and the
worker have to know of a family. `worker.slimming.architectures` has one more row for each, with the modules of a loaded
model, since that package may import torch alone; a test compares the two. docs/contributing.md lists the steps that add
a family.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedFamily, UnsupportedUnit
from service.contract.options import Merge, Unit
from service.contract.request.method import Method
from service.models.families.decoders import DECODERS
from service.models.families.encoder_decoders import ENCODER_DECODERS
from service.models.families.encoders import ENCODERS
from service.models.families.family import ModelFamily, PretrainedHead
from service.models.families.other_heads import DECODER_CLASSIFIERS, TOKEN_CLASSIFIERS
from service.models.families.per_layer import CLASS_PREFIX, is_per_layer
from service.models.quantisation.methods import quantisation_of
from service.models.tensors.table import MODEL_TENSORS

FAMILIES: dict[str, ModelFamily] = {row.model_type: row for row in (*DECODERS, *ENCODERS, *ENCODER_DECODERS)}
TOKENS = "TOKEN_CLS"  # the task_type of an adapter that is trained with a head for tokens
FACTORS_OF_HEADS = (
    "with long rotary positions a stock config derives the number of their factors from the number of heads: remove "
    "other units than heads"
)


def with_head(family: ModelFamily, model_class: str) -> ModelFamily:
    """The family with the head of a class of transformers; as it is where that is no other head of the family."""
    if model_class and model_class == family.encoder_class:
        return replace(family, kind="encoder", model_class=model_class, runtimes=(), pretrained=None)
    if model_class == TOKEN_CLASSIFIERS.get(family.model_type):
        return replace(family, kind="token_classifier", model_class=model_class, runtimes=(), same_head=())
    if model_class != DECODER_CLASSIFIERS.get(family.model_type):
        return family
    names = replace(family.names, tied=(), tied_by_default=False)
    return replace(
        family,
        kind="decoder_classifier",
        model_class=model_class,
        names=names,
        runtimes=(),
        same_head=(),
        pretrained=PretrainedHead((family.model_class,), r"(lm_head|embed_out)\..*"),
        gguf="",
    )


def with_adapter_head(family: ModelFamily, replaced: Collection[str], task_type: object = None) -> ModelFamily:
    """The family with the head that an adapter brings.

    `replaced` are the tensors of the model that it replaces, `task_type` is that of its config, which tells a head for
    the tokens of a text from one for the text.
    """
    for_tokens = TOKEN_CLASSIFIERS.get(family.model_type)
    if task_type == TOKENS and for_tokens and any(name.startswith("classifier.") for name in replaced):
        return with_head(FAMILIES[family.model_type], for_tokens)
    if family.kind == "encoder":
        heads = tuple(f"{path}." for path in MODEL_TENSORS[family.model_type].heads)
        return FAMILIES[family.model_type] if any(name.startswith(heads) for name in replaced) else family
    brings_head = family.kind == "causal" and "score.weight" in replaced
    return with_head(family, DECODER_CLASSIFIERS.get(family.model_type, "")) if brings_head else family


def family_of(config: Mapping[str, Any], model: str) -> ModelFamily:
    """The family that a config.json names, with its head. Messages call the model `model`: by its URI, or `the model`.

    Raises InvalidModel, UnsupportedFamily.
    """
    if "auto_map" in config and not is_per_layer(config):
        raise own_code(model)
    quantisation_of(config, model)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"the model_type of {model}, {model_type!r}, is not supported; {_instead(config)}"
        raise UnsupportedFamily(message, param="model.uri")
    return with_head(FAMILIES[model_type], named_class(config))


def named_class(config: Mapping[str, Any]) -> str:
    """The class of transformers that a config.json names first; "" where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return str(first).removeprefix(CLASS_PREFIX) if is_per_layer(config) else str(first)


def _instead(config: Mapping[str, Any]) -> str:
    """What to send in place of a model whose family is not in the table."""
    part = config.get("text_config")
    if isinstance(part, dict) and part.get("model_type") in FAMILIES:
        family = FAMILIES[part["model_type"]]
        return f"it is multimodal: save its text part as a {family.model_class} and give that"
    return f"these are: {', '.join(sorted(FAMILIES))}"


def check_units(units: Sequence[Unit], family: ModelFamily, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedUnit for a unit of which the stock config of the model cannot hold fewer."""
    refused = dict(family.refused)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if family.model_type == "phi3" and isinstance(rope, dict) and rope.get("long_factor"):
        refused[Unit.heads] = FACTORS_OF_HEADS
    for unit in units:
        if unit in refused:
            raise UnsupportedUnit(f"{family.model_type}: {refused[unit]}", param="method.units")


def check_merge(method: Method, family: ModelFamily) -> None:
    """Raise InvalidRequest for a merge of experts whose tensors are not laid out as the merge reads them."""
    if method.merge is Merge.none:
        return
    if family.names.expert_files is None:
        reason = "the matrices of its experts are interleaved, and such experts are not merged yet"
    elif family.names.expert_groups:
        reason = "its router scores each expert by itself, and the rows of a merged one follow from a softmax"
    else:
        return
    raise InvalidRequest(f"{family.model_type}: {reason}: leave `merge` out", param="method.merge")


def keeps_first_layer(family: ModelFamily, config: Mapping[str, Any]) -> bool:
    """Whether no other layer can take the place of the first layer of the model."""
    return family.first_layer is not None and family.first_layer.where(config)


def check_first_layer(method: Method, family: ModelFamily, config: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where whole layers may be removed, also a first one whose place no other can take."""
    if Unit.layers not in method.units or family.first_layer is None or not family.first_layer.where(config):
        return
    count = family.first_layer.count(config)
    if method.protect_first < count:
        reason = f"{family.first_layer.reason}, so that no other layer can take its place"
        message = f"{family.model_type}: {reason}: set `protect_first` to {count} or more"
        raise InvalidRequest(message, param="method.protect_first")


def own_code(model: str) -> InvalidModel:
    """The error for a model whose files name Python code to run."""
    message = f"{model} names code of its own (`auto_map`), which is never run: give a checkpoint of a stock class"
    return InvalidModel(message, param="model.uri")
