"""Encoders without a head: their outputs, their pooler, and the files of sentence-transformers beside their weights.

Shape suffixes: B rows, T positions, D hidden size.
"""

import inspect
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from service.models.families.sentence_encoder import (
    MODULES,
    NESTED,
    PROMPTS,
    SETTINGS,
    SentenceEncoder,
    read_sentence_encoder,
)
from service.models.families.table import family_of
from worker.slimming.scoring.embeddings import pooled
from worker.sources.validation import read_json_value

POOLER = "pooler."


def is_encoder(model: Any) -> bool:
    """Whether a model of transformers has no head."""
    return model.base_model is model and model.get_output_embeddings() is None


def outputs_of(model: nn.Module, inputs: Mapping[str, Tensor], encoder: SentenceEncoder | None = None) -> Tensor:
    """The logits of a model. Of an encoder without a head all its outputs in one vector: the hidden states behind the
    last layer, what its pooler makes of them, and with `encoder` the embeddings."""
    found = model(**inputs)
    if "last_hidden_state" not in found:
        logits: Tensor = found.logits
        return logits
    hidden_BTD = found.last_hidden_state
    parts = [hidden_BTD, *([found.pooler_output] if found.get("pooler_output") is not None else [])]
    if encoder is not None:
        parts.append(pooled(hidden_BTD, inputs["attention_mask"].bool(), encoder.pooling))
    return torch.cat([part.flatten() for part in parts])


def sentence_encoder_of(directory: Path) -> SentenceEncoder:
    """What the files of sentence-transformers in the directory of a checkpoint say. Raises InvalidModel."""
    return read_sentence_encoder(lambda name: read_json_value(directory / name))


def copy_sentence_files(source: Path, directory: Path) -> None:
    """Copy the files of sentence-transformers to a written checkpoint. No cut changes what they say."""
    named = [source / name for name in (MODULES, PROMPTS, *SETTINGS)]
    for path in (*named, *(path for pattern in NESTED for path in source.glob(pattern))):
        if path.is_file():
            target = directory / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def pooler_argument(config: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """The argument that keeps the class of an encoder from making a pooler that its checkpoint does not hold.

    `tensors` are the names of those in the checkpoint.
    """
    family = family_of(config, "the checkpoint")
    if family.kind != "encoder" or any(POOLER in name for name in tensors):
        return {}
    known = inspect.signature(getattr(transformers, family.model_class).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}
