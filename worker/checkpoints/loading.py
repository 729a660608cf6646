"""Models that come in: fetched, checked before anything is loaded, and loaded as the stock class of their family.

Nothing of a checkpoint is ever executed: safetensors only, no remote code.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel, NotFound
from service.contract.families import AUTO_CLASSES as AUTO_CLASS_NAMES
from service.contract.families import ModelFamily
from service.contract.task import ModelSource
from service.sources.job_checkpoints import JobModel
from service.sources.model_files import CARD, PATTERNS, is_wanted
from service.sources.readers import fetch_file, fetch_prefix, scheme_of
from worker.checkpoints.gguf import converted
from worker.checkpoints.per_layer import class_of
from worker.checkpoints.validation import check, check_safetensors, read_json

OnBytes = Callable[[int, int], None]
AUTO_CLASSES: dict[str, Any] = {kind: getattr(transformers, name) for kind, name in AUTO_CLASS_NAMES.items()}
LOCAL_STOCK = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured; `dtype` is that of its checkpoint, which the slim one will have too."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: ModelFamily
    dtype: torch.dtype


def fetch(
    source: ModelSource,
    *,
    scratch: Path,
    cache: Path,
    roots: Sequence[Path] = (),
    on_bytes: OnBytes = lambda done, total: None,
    left: JobModel | None = None,
) -> Path:
    """A local directory with the model that the request names, in safetensors; GGUF is converted once into `cache`.

    `left` is the model where the request names a job. `on_bytes` hears how many bytes of how many a store has sent.
    Raises InvalidModel, UnsupportedFamily, ForbiddenPath or StorageUnavailable.
    """
    try:
        target = scratch / "source"
        directory = (
            left.download(target, on_bytes) if left else _fetch(source.uri, source.revision, target, roots, on_bytes)
        )
    except NotFound as error:
        raise InvalidModel(error.message, param="model.uri") from error
    gguf = _gguf_file(directory)
    directory = converted(gguf, cache / "gguf") if gguf else directory
    check(directory)
    return directory


def fetch_adapter(
    uri: str, *, scratch: Path, roots: Sequence[Path] = (), on_bytes: OnBytes = lambda done, total: None
) -> Path:
    """A local directory with a LoRA adapter in safetensors. Raises as `fetch`."""
    try:
        directory = _fetch(uri, None, scratch / "adapter", roots, on_bytes)
        config = read_json(directory / "adapter_config.json")
        check_safetensors([directory / "adapter_model.safetensors"])
    except (NotFound, InvalidModel) as error:
        raise InvalidModel(f"adapter: {error.message}", param="model.adapter_uri") from error
    if config.get("peft_type") != "LORA":
        raise InvalidModel(f"only LoRA adapters are merged, not {config.get('peft_type')}", param="model.adapter_uri")
    return directory


def load(directory: Path, *, device: torch.device, adapter: Path | None = None) -> LoadedModel:
    """The checked model in evaluation mode on `device`, weights without gradients, its adapter merged.

    Raises InvalidModel where the checkpoint does not hold what its class needs.
    """
    family = check(directory)
    model, tokenizer = _load_stock(directory, family), _load_tokenizer(directory)
    dtype = model.dtype
    if adapter is not None:
        model = merge(model, adapter)
    nn.Module.to(model, device)
    make_computable(model)
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, family, dtype)


def merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a LoRA adapter added to its weights: summed in float32, then rounded once to their dtypes."""
    dtypes = weight_dtypes(model)
    cast(model, dict.fromkeys(dtypes, torch.float32))
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (ValueError, RuntimeError, TypeError) as error:
        raise InvalidModel(f"the adapter does not fit the model: {error}", param="model.adapter_uri") from error
    wrapped = [name for name, module in merged.named_modules() if type(module).__module__.startswith("peft.")]
    if wrapped:
        raise InvalidModel(f"the adapter cannot be merged into {wrapped[0]}", param="model.adapter_uri")
    cast(merged, dtypes)
    return merged


def weight_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Name -> dtype of every parameter."""
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Convert the weights in place. Buffers stay: rotary frequencies in half precision would be another model."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def make_computable(model: PreTrainedModel) -> None:
    """Turn half precision to float32 where a CPU is to compute: float16 always, since its gradients underflow, and
    bfloat16 on a CPU that has no instructions for it, where it takes many times as long."""
    slow = {torch.float16} if has_bfloat16() else {torch.float16, torch.bfloat16}
    if model.device.type == "cpu" and model.dtype in slow:
        cast(model, dict.fromkeys(weight_dtypes(model), torch.float32))


def has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 by instructions of its own."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def settle(loaded: LoadedModel) -> None:
    """Round the weights to what the checkpoint's dtype can hold, so that what is measured is what will be written."""
    computed_in = weight_dtypes(loaded.model)
    cast(loaded.model, dict.fromkeys(computed_in, loaded.dtype))
    cast(loaded.model, computed_in)


def save(loaded: LoadedModel, directory: Path) -> None:
    """Write model and tokenizer in the checkpoint's dtype. The model in memory stays in those in which it computes.

    Whoever may read the config may read the weights, which safetensors leaves to their owner alone.
    """
    computed_in = weight_dtypes(loaded.model)
    cast(loaded.model, dict.fromkeys(computed_in, loaded.dtype))
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):
        shutil.copymode(directory / "config.json", weights)
    cast(loaded.model, computed_in)


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _fetch(uri: str, revision: str | None, directory: Path, roots: Sequence[Path], on_bytes: OnBytes) -> Path:
    if scheme_of(uri) == "hf":
        return _fetch_from_hub(uri.removeprefix("hf://"), revision)
    if uri.endswith(".gguf"):
        return fetch_file(uri, directory, roots=roots)
    return fetch_prefix(
        uri, directory, roots=roots, wanted=lambda name: name == CARD or is_wanted(name), on_bytes=on_bytes
    )


def _fetch_from_hub(repository: str, revision: str | None) -> Path:
    """The hub client's own cache serves without network what it holds."""
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=[*PATTERNS, CARD], ignore_patterns="*/*")
        )
    except GatedRepoError as error:
        raise NotFound(f"hf://{repository} is gated: set HF_TOKEN for the worker") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFound(f"hf://{repository} at revision {revision or 'main'} does not exist") from error
    except LocalEntryNotFoundError as error:
        raise NotFound(f"hf://{repository} is not in the local cache, and the hub cannot be reached") from error


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that is the model: the path itself, or the only one in a directory without safetensors."""
    if path.suffix == ".gguf":
        return path
    found = sorted(path.glob("*.gguf"))
    if not found or any(path.glob("*.safetensors")):
        return None
    if len(found) > 1:
        raise InvalidModel(f"the directory holds {len(found)} GGUF files: name one of them", param="model.uri")
    return found[0]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise what transformers says of files that it cannot make sense of as InvalidModel."""
    try:
        yield
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise InvalidModel(f"the {what} cannot be loaded: {error}", param="model.uri") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise InvalidModel("the weights do not have the shapes that config.json says", param="model.uri") from error


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    with _reading("tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(directory, **LOCAL_STOCK)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _load_stock(directory: Path, family: ModelFamily) -> PreTrainedModel:
    with _reading("checkpoint"):
        loader = class_of(read_json(directory / "config.json"), AUTO_CLASSES[family.kind])
        model, info = loader.from_pretrained(
            directory, dtype="auto", use_safetensors=True, output_loading_info=True, **LOCAL_STOCK
        )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise InvalidModel(
            f"{type(model).__name__} needs weights that the checkpoint lacks: {missing}", param="model.uri"
        )
    assert isinstance(model, PreTrainedModel)
    return model
