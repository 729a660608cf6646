"""A GGUF file as an ordinary checkpoint, converted once."""

import shutil
import tempfile
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from service.contract.errors import InvalidModel, UnsupportedFamily
from service.contract.families import FAMILIES
from service.storage.object_store import digest_file

ARCHITECTURES = tuple(family.gguf for family in FAMILIES.values() if family.gguf)
FORMAT = 1  # of what lies in the cache; raise it when the conversion changes
# Quantised weights become bfloat16: its rounding is far below that of any quantisation.
FLOATS = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}


def converted(path: Path, cache: Path) -> Path:
    """A directory in `cache` with the file's model and tokenizer in safetensors, made on its first use.

    Raises InvalidModel or UnsupportedFamily.
    """
    directory = cache / f"{digest_file(path)}-{FORMAT}"
    if directory.exists():
        return directory
    dtype = _check(path)
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache))
    try:
        _convert(path, partial, dtype)
        if not directory.exists():  # another worker may have been faster
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _check(path: Path) -> torch.dtype:
    """The dtype to save in. Raises for a file that cannot be converted."""
    try:
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise InvalidModel(f"{path.name} is not a readable GGUF file: {error}", param="model.uri") from error
    if architecture not in ARCHITECTURES:
        raise UnsupportedFamily(
            f"GGUF files of architecture {architecture!r} are not supported; these are: {', '.join(ARCHITECTURES)}",
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
    """The same weights in a plain model: a model that was read from GGUF refuses to be saved (transformers 5)."""
    config = model.config
    vars(config).pop("quantization_config", None)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), strict=True, assign=True)
    plain.generation_config = model.generation_config
    return plain
