"""Converts a GGUF file to an ordinary checkpoint, once for each file."""

import shutil
import tempfile
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from service.contract.errors import InvalidModel, UnsupportedFamily
from service.families.table import FAMILIES
from service.storage.object_store import digest_file

GGUF_ARCHITECTURES = tuple(family.gguf for family in FAMILIES.values() if family.gguf)
FORMAT = 1  # of the converted checkpoints in the cache; raise it when the conversion changes
# Dtype of the weights in the file -> dtype of the checkpoint. Quantised weights become bfloat16, which rounds far less
# than any quantisation.
FLOATS = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}


def convert_gguf(path: Path, cache: Path) -> Path:
    """The directory in `cache` with the model and tokenizer of the file in safetensors; converts it on its first use.

    Raises InvalidModel or UnsupportedFamily.
    """
    directory = cache / f"{digest_file(path)}-{FORMAT}"
    if directory.exists():
        return directory
    dtype = _checkpoint_dtype(path)
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache))
    try:
        _convert(path, partial, dtype)
        if not directory.exists():  # another worker may have finished first
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _checkpoint_dtype(path: Path) -> torch.dtype:
    """The dtype to save the weights in. Raises InvalidModel or UnsupportedFamily for other files."""
    try:
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise InvalidModel(f"{path.name} is not a readable GGUF file: {error}", param="model.uri") from error
    if architecture not in GGUF_ARCHITECTURES:
        raise UnsupportedFamily(
            f"GGUF files of architecture {architecture!r} are not supported; these are: "
            f"{', '.join(GGUF_ARCHITECTURES)}",
            param="model.uri",
        )
    return FLOATS.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16


def _convert(path: Path, directory: Path, dtype: torch.dtype) -> None:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    _without_quantizer(model, dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _without_quantizer(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A plain model with the same weights: transformers 5 does not save a model that it has read from GGUF."""
    config = model.config
    vars(config).pop("quantization_config", None)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), strict=True, assign=True)
    plain.generation_config = model.generation_config
    return plain
