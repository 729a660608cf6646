"""A slim model as the indices that were kept: kilobytes, from which its base model makes the very checkpoint.

`python -m worker.checkpoints.kept_indices KEPT DIRECTORY [--model URI] [--adapter URI]` does that; `taskslim apply`
starts it.

kept.safetensors holds, for each group of units, the sorted indices in the dense model of those that stay, int32:
"decoder.3.ffn". Its metadata has under "taskslim" an `Origin` as JSON.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from service.contract.errors import InvalidData, InvalidModel, InvalidRequest, TaskslimError, VerificationFailed
from service.contract.fields import Schema
from service.contract.options import Layout, Repair, Unit
from service.contract.result import Widths
from service.contract.task import ModelSource
from service.settings import Settings
from service.sources.job_checkpoints import JOB
from service.sources.readers import scheme_of
from service.storage.object_store import digest_file
from worker.checkpoints import loading
from worker.checkpoints.cutting import cut
from worker.checkpoints.loading import LoadedModel
from worker.data.provenance import digest_directory
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units import Site, locate

KEY = "taskslim"


class Origin(Schema):
    """What the indices are of, and what they make."""

    model: ModelSource
    model_digest: str
    adapter_digest: str | None
    family: str
    units: list[Unit]
    layout: Layout
    repair: Repair
    widths: list[Widths]
    weights: dict[str, str]  # file of the slim checkpoint -> sha256
    versions: dict[str, str]


Kept = dict[Site, Tensor]


def save(kept: Mapping[Site, Tensor], origin: Origin, path: Path) -> None:
    """Write what was kept."""
    save_file({str(site): kept_K.int() for site, kept_K in kept.items()}, path, {KEY: origin.model_dump_json()})


def read(path: Path) -> tuple[Kept, Origin]:
    """What `save` has written. Raises InvalidData."""
    try:
        with safe_open(path, framework="pt") as file:
            origin = Origin.model_validate_json((file.metadata() or {}).get(KEY, ""))
            kept = {Site.parse(name): file.get_tensor(name).long() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        raise InvalidData(f"{path} does not hold the indices of a slim model: {error}") from error
    return kept, origin


def digests(directory: Path) -> dict[str, str]:
    """File -> sha256 of the weights of a checkpoint."""
    return {path.name: digest_file(path) for path in sorted(directory.glob("*.safetensors"))}


def apply(path: Path, base: Path, adapter: Path | None, directory: Path) -> None:
    """Write the checkpoint that the indices at `path` make of a base model, an adapter merged where there was one.

    Raises InvalidRequest where indices alone do not make it, InvalidModel for another base model, InvalidData for
    indices that are none of it, and VerificationFailed where the weights are not those that the job has verified.
    """
    kept, origin = read(path)
    check_base(origin, base, adapter)
    loaded = loading.load(base, device=torch.device("cpu"), adapter=adapter)
    _check_indices(kept, origin, loaded)
    loading.save(cut(loaded, kept, origin.layout), directory)
    if digests(directory) != origin.weights:
        shutil.rmtree(directory)
        raise VerificationFailed(
            f"the weights are not those of the job, whose versions were {origin.versions}: use the same ones"
        )


def check_base(origin: Origin, base: Path, adapter: Path | None) -> None:
    """Raise unless the indices make a checkpoint, and make it of this model."""
    if origin.repair is not Repair.none:
        raise InvalidRequest(
            f"the job repaired the weights ({origin.repair}), which indices do not hold: download its safetensors",
            param="method.repair",
        )
    if digest_directory(base) != origin.model_digest:
        raise InvalidModel("this is not the model that the job slimmed: its files differ", param="model.uri")
    if (digest_directory(adapter) if adapter else None) != origin.adapter_digest:
        raise InvalidModel("this is not the adapter that the job merged, or one is missing", param="model.adapter_uri")


def _check_indices(kept: Kept, origin: Origin, loaded: LoadedModel) -> None:
    groups = locate(loaded.model, ARCHITECTURES[loaded.family.model_type], [unit.value for unit in origin.units])
    if {group.site for group in groups} != kept.keys():
        raise InvalidData("the indices name other groups of units than the model has")
    for group in groups:
        rising = torch.cat([torch.tensor([-1]), kept[group.site], torch.tensor([group.count])])
        if not (rising.diff() > 0).all():
            raise InvalidData(f"the indices of {group.site} do not rise from 0 to {group.count - 1}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="taskslim apply", description="Makes a slim checkpoint from indices.")
    parser.add_argument("kept", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", help="where the base model lies, if not where the job found it")
    parser.add_argument("--adapter", help="where the adapter lies, if not where the job found it")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    try:
        _run(asked.kept, asked.directory, asked.model, asked.adapter)
    except TaskslimError as error:
        sys.exit(error.message)


def _run(path: Path, directory: Path, model: str | None, adapter: str | None) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise InvalidRequest(f"{directory} is not empty")
    source = read(path)[1].model
    adapter_uri = _uri(adapter) if adapter else source.adapter_uri
    if model:
        source = ModelSource(uri=_uri(model))
    if scheme_of(source.uri) == JOB:
        message = f"the base model is what {source.uri} has left: download it, and name its directory with --model"
        raise InvalidRequest(message, param="model.uri")
    with TemporaryDirectory() as scratch:
        base = loading.fetch(source, scratch=Path(scratch), cache=Settings().state / "cache")
        merged = loading.fetch_adapter(adapter_uri, scratch=Path(scratch)) if adapter_uri else None
        apply(path, base, merged, directory)
    sys.stdout.write(f"{directory}\n")


def _uri(place: str) -> str:
    return place if "://" in place else Path(place).resolve().as_uri()


if __name__ == "__main__":
    main()
