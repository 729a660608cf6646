"""Loads the weights of a checkpoint into the stock class of its family, every tensor of them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from service.contract.errors import InvalidModel
from service.models.families.family import AUTO_CLASSES as AUTO_CLASS_NAMES
from service.models.families.family import ModelFamily
from service.models.families.source_config import TEXT_PREFIXES, effective_config, plain_name
from service.models.tensors import adapter_names
from service.sources.model_files import ADAPTER_WEIGHTS, CONFIG
from worker.checkpoints.encoders import pooler_argument
from worker.checkpoints.model_classes.per_layer import loader_class
from worker.sources.validation import read_json, weight_files

# Kind of a family -> the Auto class of transformers that loads it.
AUTO_CLASSES: dict[str, Any] = {kind: getattr(transformers, name) for kind, name in AUTO_CLASS_NAMES.items()}
# Fields of a config.json that say how a program runs the model, and not what it computes.
RUN_OPTIONS = frozenset(
    {
        "attn_implementation",
        "_attn_implementation",
        "return_dict",
        "use_return_dict",
        "output_attentions",
        "output_hidden_states",
    }
)
# What the RuntimeErrors contain that transformers and torch raise for sizes in config.json.
OF_SHAPES = ("ignore_mismatched_sizes", "negative dimension")
FROM_DISK_ALONE = {"trust_remote_code": False, "local_files_only": True}


def load_weights(directory: Path, family: ModelFamily, adapter: Path | None = None) -> PreTrainedModel:
    """The model with the weights of its checkpoint. Raises InvalidModel where a tensor is missing, or is not used.

    An adapter may bring the head, which the caller has to merge.
    """
    brought = _shapes([adapter / ADAPTER_WEIGHTS]) if adapter else {}
    stored = list(_shapes(weight_files(directory)))
    renamed = any(plain_name(name) != name for name in stored)
    with invalid_model("checkpoint"):
        config = read_json(directory / CONFIG)
        loader = loader_class(config, AUTO_CLASSES[family.kind])
        model, info = loader.from_pretrained(
            directory,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=TEXT_PREFIXES if renamed else None,
            **own_config(config),
            **(pooler_argument(config, stored) if family.kind == "encoder" else {}),
            **_labels(config, family, brought),
            **FROM_DISK_ALONE,
        )
    assert isinstance(model, PreTrainedModel)
    if renamed or family.names.expert_files:  # files with joined experts are written one by one as well
        vars(model).pop("_weight_conversions", None)  # save_pretrained would give the tensors their old names
    _check_complete(model, info["missing_keys"] - adapter_names.replaced(brought))
    _check_all_used(model, family, {*map(plain_name, stored)}, info["unexpected_keys"], has_adapter=bool(brought))
    return model


def _shapes(paths: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in safetensors files."""
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The argument `config` of `from_pretrained`, where it is not simply that of the file."""
    effective = effective_config(config)
    described = {field: value for field, value in effective.items() if field not in RUN_OPTIONS}
    return {} if described == config else {"config": AutoConfig.for_model(**described)}


def _labels(config: Mapping[str, Any], family: ModelFamily, brought: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The argument `num_labels`, where the head comes with the adapter and config.json names no such classes."""
    found = adapter_names.num_labels(brought) if family.pretrained else None
    return {} if found is None or len(config.get("id2label") or ()) == found else {"num_labels": found}


def _check_complete(model: PreTrainedModel, missing: set[str]) -> None:
    if missing:
        first = ", ".join(sorted(missing)[:3])
        message = f"{type(model).__name__} needs weights that the checkpoint lacks: {first}"
        raise InvalidModel(message, param="model.uri")


def _check_all_used(
    model: PreTrainedModel, family: ModelFamily, stored: set[str], unexpected: set[str], *, has_adapter: bool
) -> None:
    """Raise InvalidModel unless the model uses all tensors but those that the table allows to be left out.

    The class leaves some out without reporting them as `unexpected`.
    """
    silent = model._keys_to_ignore_on_load_unexpected or ()
    left_out = {name for name in stored if any(re.search(pattern, name) for pattern in silent)} - {*model.state_dict()}
    replaced = family.pretrained.tensors if family.pretrained and has_adapter else r"(?!)"
    for name in sorted(unexpected | left_out):
        if not family.may_leave_unused(name, model.config.to_dict()) and not re.fullmatch(replaced, name):
            message = f"{type(model).__name__} does not use the tensor {name}: give a checkpoint of this class"
            raise InvalidModel(message, param="model.uri")


@contextmanager
def invalid_model(what: str) -> Iterator[None]:
    """Turn the errors that transformers raises for unreadable files into InvalidModel."""
    try:
        yield
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        StrictDataclassError,
    ) as error:
        raise InvalidModel(f"the {what} cannot be loaded: {error}", param="model.uri") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in OF_SHAPES):
            raise
        raise InvalidModel("the weights do not have the shapes that config.json says", param="model.uri") from error
