"""A LoRA adapter as its small files describe it: its config, and the shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.errors import InvalidModel
from service.models.tensors import adapter_names
from service.sources.access import blaming
from service.sources.directories import Directory, read_json
from service.sources.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from service.sources.safetensors_header import DamagedHeader, Tensors, TensorShape

PARAM = "model.adapter_uri"
# Options of PEFT with which no merged weights compute what model and adapter do.
UNMERGEABLE = {
    "alora_invocation_tokens": "it acts behind its invocation tokens alone",
    "layer_replication": "it repeats layers of the model",
}


@dataclass(frozen=True)
class Adapter:
    """The config and the tensors of a LoRA adapter."""

    config: Mapping[str, Any]
    tensors: Tensors

    @property
    def replaced(self) -> dict[str, TensorShape]:
        """The tensors of the model that the adapter replaces, under their names in the model."""
        names = adapter_names.replaced(self.tensors)
        return {name: self.tensors[adapter_names.PREFIX + name] for name in names}

    @property
    def changed(self) -> set[str]:
        """The weights of the model that the adapter changes for one module alone."""
        if self.config.get("ensure_weight_tying"):
            return set()
        found = (adapter_names.module_and_part(name) for name in self.tensors)
        alone = {f"{module}.weight" for module, part in found if part and not part.startswith("token_adapter")}
        return alone | self.replaced.keys()

    @property
    def num_labels(self) -> int | None:
        """The classes of the classification head in the adapter; None if it holds none."""
        return adapter_names.num_labels({name: tensor.shape for name, tensor in self.tensors.items()})


def read_adapter(files: Directory, uri: str) -> Adapter:
    """The adapter in a directory, which messages call `uri`. Raises InvalidModel unless it is a LoRA adapter."""
    with blaming(PARAM, InvalidModel):
        missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not files.has(name)]
    if missing:
        message = f"{uri} has no {' and no '.join(missing)}: give the directory of a LoRA adapter"
        raise InvalidModel(message, param=PARAM)
    config = read_json(files, ADAPTER_CONFIG, uri, PARAM)
    check_mergeable(config, uri)
    try:
        with blaming(PARAM, InvalidModel):
            return Adapter(config, files.header(ADAPTER_WEIGHTS).tensors)
    except DamagedHeader as error:
        raise InvalidModel(f"{ADAPTER_WEIGHTS} is damaged: {error}", param=PARAM) from error


def check_mergeable(config: Mapping[str, Any], uri: str) -> None:
    """Raise InvalidModel unless a config describes a LoRA adapter that can be added to the weights of a model."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidModel(f"{uri} is an adapter of the type {kind}; only LoRA adapters are merged", param=PARAM)
    for option, reason in UNMERGEABLE.items():
        if config.get(option):
            message = f"{uri} cannot be merged, because {reason} ({option!r}): give an adapter without this option"
            raise InvalidModel(message, param=PARAM)
