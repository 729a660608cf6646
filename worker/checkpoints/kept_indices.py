"""The file kept.safetensors: the indices of the units that stay, a few kilobytes, from which the base model makes the
slim checkpoint again, bit by bit.

For each group of units ("decoder.3.ffn") the file has the sorted indices, in the dense model, of the units that stay,
int32. Its metadata has an `Origin` as JSON under the key "taskslim".

`python -m worker.checkpoints.kept_indices KEPT DIRECTORY [--model URI] [--adapter URI]`, which `taskslim apply` starts,
writes the checkpoint.
"""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from service.contract.answers.result import Widths
from service.contract.answers.task_file import TaskFile
from service.contract.errors import InvalidData, InvalidModel, InvalidRequest, TaskslimError, VerificationFailed
from service.contract.fields import Schema
from service.contract.options import Layout, Merge, Repair, Unit
from service.contract.request.recovery import RecoveryMethod
from service.contract.request.task import ModelSource
from service.settings import Settings
from service.sources.job_checkpoints import JOB
from service.sources.readers import scheme_of
from service.storage.artifact_names import TASK_FILE
from service.storage.object_store import digest_file
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.head_bias import add_to_bias
from worker.checkpoints.loading import LoadedModel, load_model
from worker.checkpoints.saving import save_model
from worker.data.provenance import digest_directory
from worker.slimming.architectures import architecture_of
from worker.slimming.units.groups import Kept, Site
from worker.slimming.units.locating import locate
from worker.sources.fetching import FetchedModel, fetch_adapter, fetch_model

KEY = "taskslim"


class Origin(Schema):
    """The model that the indices belong to, and the checkpoint that they make."""

    model: ModelSource
    model_digest: str
    adapter_digest: str | None
    family: str
    units: list[Unit]
    layout: Layout
    repair: Repair
    recovery: RecoveryMethod | None = None  # how the checkpoint was trained
    merge: Merge = Merge.none
    widths: list[Widths]
    weights: dict[str, str]  # file of the slim checkpoint -> sha256
    tasks: TaskFile | None = None  # the contents of its task.json
    head_offsets: list[float] | None = None  # numbers that were added to the bias of a classification head
    versions: dict[str, str]


def save_kept(kept: Kept, origin: Origin, path: Path) -> None:
    """Write the file."""
    save_file({str(site): kept_K.int() for site, kept_K in kept.items()}, path, {KEY: origin.model_dump_json()})


def read_kept(path: Path) -> tuple[dict[Site, Tensor], Origin]:
    """Read the file that `save_kept` has written. Raises InvalidData."""
    try:
        with safe_open(path, framework="pt") as file:
            origin = Origin.model_validate_json((file.metadata() or {}).get(KEY, ""))
            kept = {Site.parse(name): file.get_tensor(name).long() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        raise InvalidData(f"{path} does not hold the indices of a slim model: {error}") from error
    return kept, origin


def weight_digests(directory: Path) -> dict[str, str]:
    """File -> sha256 of each file with weights of a checkpoint."""
    return {path.name: digest_file(path) for path in sorted(directory.glob("*.safetensors"))}


def apply_kept(path: Path, base: FetchedModel, adapter: Path | None, directory: Path) -> None:
    """Write the checkpoint that the file at `path` makes of the base model, its adapter merged.

    Raises InvalidRequest for a job whose repair or recovery changed the weights, InvalidModel for another base model,
    InvalidData for indices that the model does not have, and VerificationFailed where the weights differ from those of
    the job.
    """
    kept, origin = read_kept(path)
    _check_base(origin, base, adapter)
    loaded = load_model(base.directory, device=torch.device("cpu"), adapter=adapter)
    _check_indices(kept, origin, loaded)
    slim = make_slim(loaded, kept, origin.layout)
    if origin.head_offsets is not None:
        add_to_bias(slim.model, torch.tensor(origin.head_offsets, dtype=torch.float64), slim.dtype)
    save_model(slim, directory)
    if origin.tasks is not None:
        (directory / TASK_FILE).write_text(origin.tasks.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if weight_digests(directory) != origin.weights:
        shutil.rmtree(directory)
        raise VerificationFailed(
            f"the weights differ from those of the job: use the versions that it ran with, {origin.versions}"
        )


def _check_base(origin: Origin, base: FetchedModel, adapter: Path | None) -> None:
    """Raise unless indices alone make the checkpoint, and make it of this model and adapter."""
    if origin.repair is not Repair.none:
        raise InvalidRequest(
            f"the job changed the weights (repair {origin.repair}), which indices lack: download its safetensors",
            param="method.repair",
        )
    if origin.recovery is not None:
        message = f"the job trained the model (recovery {origin.recovery}): download its safetensors"
        raise InvalidRequest(message, param="recovery")
    if origin.merge is not Merge.none:
        raise InvalidRequest(
            f"the job merged experts (merge {origin.merge}), which indices lack: download its safetensors",
            param="method.merge",
        )
    if digest_directory(base.fetched) != origin.model_digest:
        raise InvalidModel("this is not the model that the job slimmed: its files differ", param="model.uri")
    if (digest_directory(adapter) if adapter else None) != origin.adapter_digest:
        raise InvalidModel("this is not the adapter that the job merged, or one is missing", param="model.adapter_uri")


def _check_indices(kept: Kept, origin: Origin, loaded: LoadedModel) -> None:
    """Raise unless the groups are those of the model, and each one's indices are sorted, unique and in range."""
    groups = locate(loaded.model, architecture_of(loaded.model), [unit.value for unit in origin.units])
    if {group.site for group in groups} != kept.keys():
        raise InvalidData("the indices name other groups of units than the model has")
    for group in groups:
        bounded = torch.cat([torch.tensor([-1]), kept[group.site], torch.tensor([group.count])])
        if not (bounded.diff() > 0).all():
            raise InvalidData(f"the indices of {group.site} do not rise from 0 to {group.count - 1}")
        in_row = (kept[group.site] // (group.count // group.rows)).bincount(minlength=group.rows)
        if (in_row != in_row[0]).any():
            raise InvalidData(f"the indices of {group.site} are not the same number in each of its {group.rows} rows")


def main() -> None:
    """Parse the command line and write the checkpoint; errors end the process with their message alone."""
    parser = argparse.ArgumentParser(prog="taskslim apply", description="Makes a slim checkpoint from indices.")
    parser.add_argument("kept", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", help="path or URI of the base model, if it is not where the job found it")
    parser.add_argument("--adapter", help="path or URI of the adapter, if it is not where the job found it")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    try:
        _run(arguments.kept, arguments.directory, arguments.model, arguments.adapter)
    except TaskslimError as error:
        sys.exit(error.message)


def _run(path: Path, directory: Path, model: str | None, adapter: str | None) -> None:
    check_empty(directory)
    source = read_kept(path)[1].model
    adapter_uri = uri_of(adapter) if adapter else source.adapter_uri
    if model:
        source = ModelSource(uri=uri_of(model))
    if scheme_of(source.uri) == JOB:
        message = f"the base model is the result of {source.uri}: download it, and name its directory with --model"
        raise InvalidRequest(message, param="model.uri")
    with TemporaryDirectory() as scratch:
        base = fetch_model(source, scratch=Path(scratch), cache=Settings().state / "cache")
        merged = fetch_adapter(adapter_uri, scratch=Path(scratch)) if adapter_uri else None
        apply_kept(path, base, merged, directory)
    sys.stdout.write(f"{directory}\n")


def check_empty(directory: Path) -> None:
    """Raise InvalidRequest for a directory with files, in which a command would write."""
    if directory.exists() and any(directory.iterdir()):
        raise InvalidRequest(f"{directory} is not empty")


def uri_of(path_or_uri: str) -> str:
    """The URI of a model or an adapter that an option of a command names."""
    return path_or_uri if "://" in path_or_uri else Path(path_or_uri).resolve().as_uri()


if __name__ == "__main__":
    main()
