"""Cuts a LoRA adapter of a dense model to fit the slim one, by the indices of the units that stay.

The adapter adds B A to the weight W of a module. A cut keeps rows and columns of W; the same rows of B and columns of A
give the same sum. So the slim model with the cut adapter is, without a repair, the dense model with its adapter, cut.

`python -m worker.checkpoints.adapters.rebasing ADAPTER KEPT OUT [--model URI]`, which `taskslim rebase-adapter` starts,
writes the adapter. Of the base model only config.json is read.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from service.contract.errors import InvalidModel, InvalidRequest, TaskslimError
from service.contract.options import Merge, Repair
from service.contract.request.task import ModelSource
from service.models.families.per_layer import is_per_layer
from service.models.families.source_config import effective_config
from service.models.families.table import family_of
from service.models.tensors.adapter_names import PREFIX, module_and_part
from service.sources.access import HUB
from service.sources.hub import HubFiles
from service.sources.job_checkpoints import JOB
from service.sources.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, GGUF
from service.sources.readers import read_bytes, scheme_of
from worker.checkpoints.kept_indices import Origin, check_empty, read_kept, uri_of
from worker.checkpoints.weights import AUTO_CLASSES, FROM_DISK_ALONE, invalid_model, own_config
from worker.data.provenance import digest_directory
from worker.slimming.architectures import Architecture, architecture_of
from worker.slimming.surgery.slicing import groups_of, staying
from worker.slimming.units.groups import Kept
from worker.sources.validation import read_json

IN, OUT = "lora_A.weight", "lora_B.weight"
NUMBERED = ("layers_to_transform", "rank_pattern", "alpha_pattern")  # of adapter_config.json: may name layers by number
READ_SECONDS = 60


def rebase(adapter: Path, kept: Kept, dense: nn.Module, directory: Path) -> None:
    """Write the adapter that fits the model which `kept` makes of `dense`, whose weights may be on the meta device.

    Raises InvalidModel for an adapter that is not one of this model, and for what cannot be cut.
    """
    config = read_json(adapter / ADAPTER_CONFIG)
    _check_kind(config)
    architecture = architecture_of(dense)
    renamed = _layer_names(architecture, kept)
    _check_names(config, renamed)
    groups = [group for group in groups_of(dense, architecture, kept) if group.kind != "layers"]
    stay = staying(dense, groups, kept)
    tensors = {}
    for name, tensor in load_file(adapter / ADAPTER_WEIGHTS).items():
        new = _renamed(name, renamed)
        if new is not None:
            tensors[new] = _cut(name, tensor, dense, stay).contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": None}, indent=2) + "\n")


def _check_kind(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InvalidModel(f"an adapter of the type {config.get('peft_type')} cannot be cut: give a LoRA adapter")
    if config.get("use_dora"):
        raise InvalidModel("a DoRA adapter scales by the norms of whole rows, which a cut changes: merge it before")


def _check_names(config: dict[str, Any], renamed: dict[str, str | None]) -> None:
    """Raise InvalidModel for a config that names layers by their numbers, where layers were removed."""
    if all(old == new for old, new in renamed.items()):
        return
    targets = config.get("target_modules") or []
    named = [name for name in NUMBERED if config.get(name)]
    if any(re.search(r"(^|\.)\d+\.", target) for target in ([targets] if isinstance(targets, str) else targets)):
        named.append("target_modules")
    if named:
        raise InvalidModel(f"layers were removed, and {ADAPTER_CONFIG} names layers by number in {', '.join(named)}")


# --- names ---------------------------------------------------------------------------------------------------------


def _layer_names(architecture: Architecture, kept: Kept) -> dict[str, str | None]:
    """Path of each layer that `kept` names as a unit -> its path in the slim model; None for a removed one."""
    found: dict[str, str | None] = {}
    for stack in architecture.stacks:
        layers = sorted((site.layer, kept_K) for site, kept_K in kept.items() if site[::2] == (stack.name, "layers"))
        number = 0
        for layer, kept_K in layers:
            found[f"{stack.layers}.{layer}"] = f"{stack.layers}.{number}" if kept_K.numel() else None
            number += bool(kept_K.numel())
    return found


def _renamed(name: str, renamed: dict[str, str | None]) -> str | None:
    """The name of a tensor in the slim model; None where its layer is gone."""
    plain = name.removeprefix(PREFIX)
    for old, new in renamed.items():
        if plain.startswith(f"{old}."):
            return None if new is None else f"{PREFIX}{new}{plain.removeprefix(old)}"
    return name


# --- tensors -------------------------------------------------------------------------------------------------------


def _cut(name: str, tensor: Tensor, dense: nn.Module, stay: dict[tuple[str, int], Tensor]) -> Tensor:
    """A tensor of the adapter with the rows or columns that stay. Raises InvalidModel."""
    path, part = module_and_part(name)
    if not part:
        return _cut_replaced(path, tensor, dense, stay)
    try:
        module = dense.get_submodule(path)
    except AttributeError as error:
        raise InvalidModel(f"the adapter's module {path} is none of the model's: give an adapter of it") from error
    across, along = (1, 0) if isinstance(module, Conv1D) else (0, 1)  # dimensions of the weight: outputs and inputs
    weight = f"{path}.weight"
    cuts = {IN: (1, stay.get((weight, along))), OUT: (0, stay.get((weight, across)))}
    if part not in cuts:
        if any((weight, dim) in stay for dim in (0, 1)):
            raise InvalidModel(f"the adapter's tensor {name} cannot be cut: only {IN} and {OUT} can")
        return tensor
    dim, stays_I = cuts[part]
    return _kept(name, tensor, dim, stays_I)


def _cut_replaced(path: str, tensor: Tensor, dense: nn.Module, stay: dict[tuple[str, int], Tensor]) -> Tensor:
    """A tensor that replaces one of the model, such as that of a head."""
    for dim in range(tensor.dim()):
        tensor = _kept(path, tensor, dim, stay.get((path, dim)))
    return tensor


def _kept(name: str, tensor: Tensor, dim: int, stays_I: Tensor | None) -> Tensor:
    if stays_I is None:
        return tensor
    if stays_I.dim() > 1:
        raise InvalidModel(f"the adapter's tensor {name} changes experts, each of which has lost neurons of its own")
    if tensor.shape[dim] != stays_I.numel():
        shapes = f"{tensor.shape[dim]} instead of {stays_I.numel()}"
        raise InvalidModel(f"the adapter's tensor {name} has another size than the dense model: {shapes}")
    return tensor.index_select(dim, stays_I.nonzero().flatten())


# --- the command ---------------------------------------------------------------------------------------------------


def dense_skeleton(source: ModelSource) -> nn.Module:
    """The base model without weights, from its config.json. Raises InvalidModel, InvalidRequest."""
    if scheme_of(source.uri) == JOB or source.uri.endswith(GGUF):
        message = f"the config of {source.uri} cannot be read here: name the directory of the dense model with --model"
        raise InvalidRequest(message)
    uri = f"{source.uri.rstrip('/')}/{CONFIG}"
    content = HubFiles.of(source).content(CONFIG) if scheme_of(source.uri) == HUB else _read(uri)
    with TemporaryDirectory() as scratch, invalid_model(CONFIG):
        (Path(scratch) / CONFIG).write_bytes(content)
        config = read_json(Path(scratch) / CONFIG)
        if is_per_layer(config):
            raise InvalidModel("the dense model has layers of different widths itself: its adapters are not cut")
        family = family_of(effective_config(config), "the model")
        loaded = own_config(config).get("config") or AutoConfig.from_pretrained(scratch, **FROM_DISK_ALONE)
        with torch.device("meta"):
            model: nn.Module = AUTO_CLASSES[family.kind].from_config(loaded)
    return model


def _read(uri: str) -> bytes:
    return read_bytes(uri, retry_seconds=READ_SECONDS)


def _check_origin(origin: Origin, adapter: Path) -> None:
    if origin.merge is not Merge.none:
        raise InvalidRequest("the job has merged experts, whose adapters cannot be: train an adapter of the slim model")
    if origin.adapter_digest is not None and origin.adapter_digest == digest_directory(adapter):
        raise InvalidRequest("the job has merged this adapter already: use the slim model without it")


def main() -> None:
    """Parse the command line and write the adapter; errors end the process with their message alone."""
    parser = argparse.ArgumentParser(prog="taskslim rebase-adapter", description="Cuts an adapter to a slim model.")
    parser.add_argument("adapter", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", help="path or URI of the dense model, if it is not where the job found it")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    try:
        _run(arguments.adapter, arguments.kept, arguments.directory, arguments.model)
    except TaskslimError as error:
        sys.exit(error.message)


def _run(adapter: Path, path: Path, directory: Path, model: str | None) -> None:
    check_empty(directory)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).exists():
            raise InvalidModel(f"{adapter} has no {name}: give the directory of a LoRA adapter")
    kept, origin = read_kept(path)
    _check_origin(origin, adapter)
    source = origin.model if model is None else ModelSource(uri=uri_of(model))
    try:
        rebase(adapter, kept, dense_skeleton(source), directory)
    except TaskslimError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    if origin.repair is not Repair.none or origin.recovery is not None:
        sys.stderr.write(
            "the job has changed weights (repair or recovery), so that the slim model with this adapter is not the cut "
            "of the dense model with it: evaluate it\n"
        )
    sys.stdout.write(f"{directory}\n")


if __name__ == "__main__":
    main()
