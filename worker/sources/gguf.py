"""Converts a GGUF file to an ordinary checkpoint, once for each file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from service.contract.errors import InvalidModel, UnsupportedFamily
from service.models.families.table import FAMILIES
from service.storage.object_store import digest_file
from worker.sources.gguf_config import Metadata, check_tensors, complete_config, read_metadata

# `general.architecture` -> the family that transformers converts it to.
GGUF_FAMILIES = {family.gguf: family.model_type for family in FAMILIES.values() if family.gguf}
FORMAT = 2  # of the converted checkpoints in the cache; raise it when the conversion changes
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
    reader, family = _open(path)
    metadata = read_metadata(reader, path.name, family)
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache))
    try:
        with _refusing_contradictions(path):
            _convert(path, partial, reader, metadata)
        if not directory.exists():  # another worker may have finished first
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


@contextmanager
def _refusing_contradictions(path: Path) -> Iterator[None]:
    """Raise InvalidModel for a file whose metadata is missing, of another type, or does not fit its tensors."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        raise InvalidModel(f"{path.name} cannot be converted: {error!r}", param="model.uri") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        message = f"the tensors of {path.name} do not have the shapes that its metadata says"
        raise InvalidModel(message, param="model.uri") from error


def _open(path: Path) -> tuple[GGUFReader, str]:
    """The file and the family of its model. Raises InvalidModel or UnsupportedFamily for other files."""
    try:
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise InvalidModel(f"{path.name} is not a readable GGUF file: {error}", param="model.uri") from error
    if architecture not in GGUF_FAMILIES:
        raise UnsupportedFamily(
            f"GGUF files of architecture {architecture!r} are not supported; these are: {', '.join(GGUF_FAMILIES)}",
            param="model.uri",
        )
    return reader, GGUF_FAMILIES[architecture]


def _checkpoint_dtype(reader: GGUFReader) -> torch.dtype:
    """The dtype to save the weights in."""
    kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    return FLOATS.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16


def _convert(path: Path, directory: Path, reader: GGUFReader, metadata: Metadata) -> None:
    """Write the checkpoint. Raises InvalidModel for a file with more than the checkpoint can hold."""
    dtype, where = _checkpoint_dtype(reader), {"gguf_file": path.name, "local_files_only": True}
    config = AutoConfig.from_pretrained(path.parent, **where)
    complete_config(config, metadata)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, config=config, dtype=dtype, quantization_config=GgufConfig(dequantize=True), **where
    )
    check_tensors(reader, model, metadata)
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
