"""The vocabulary of a loaded model: its tokenizer as tokenizer.json, and a model with some of its tokens alone.

Shape suffixes: K rows of the embedding that stay.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from service.contract.errors import UnsupportedUnit
from service.models.vocabulary.checks import check_pieces, in_words
from service.models.vocabulary.special_ids import named_ids, renumber
from service.models.vocabulary.tokenizer_file import TokenizerFile, new_ids
from service.sources.model_files import CONFIG, TOKENIZER_CONFIG
from worker.checkpoints.loading import LoadedModel, load_tokenizer
from worker.checkpoints.older_readers import TOKENIZER, with_new_ids
from worker.data.slim_vocabulary import SlimVocabulary
from worker.slimming.surgery.config_sizes import configs_of
from worker.slimming.surgery.vocabulary import cut_rows, num_rows, parts_of

NO_FILE = "its tokenizer is not a fast one, whose pieces tokenizer.json has"
OTHER_IDS = "the class of its tokenizer does not take the ids of its tokenizer.json"


def tokenizer_file(loaded: LoadedModel) -> TokenizerFile:
    """The tokenizer of a model as a tokenizer.json. Raises UnsupportedUnit where its pieces cannot be removed."""
    if not loaded.tokenizer.is_fast:
        raise UnsupportedUnit(in_words(loaded.family.model_type, NO_FILE), param="method.units")
    found = TokenizerFile(json.loads(loaded.tokenizer.backend_tokenizer.to_str()))
    check_pieces(found, loaded.family.model_type)
    return found


def ids_in_configs(loaded: LoadedModel) -> set[int]:
    """The ids that the configs of a model name, such as the end of a text."""
    generation = getattr(loaded.model, "generation_config", None)
    configs = [loaded.model.config.to_dict(), generation.to_dict() if generation else {}]
    return {number for config in configs for number in named_ids(config)}


def slim_vocabulary(loaded: LoadedModel, kept_K: Tensor) -> SlimVocabulary:
    """The vocabulary with the tokens of the kept rows alone, and the tokenizer as its files give it.

    Raises UnsupportedUnit for a tokenizer whose pieces cannot be removed, or whose class does not give the tokens the
    ids of its file.
    """
    file, rows = tokenizer_file(loaded), num_rows(loaded.model)
    ids = new_ids(kept_K.tolist(), rows, max(file.ids.values()) + 1)
    slim = file.cut(kept_K.tolist(), rows)
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        loaded.tokenizer.save_pretrained(directory)
        shutil.copyfile(loaded.directory / CONFIG, directory / CONFIG)
        (directory / TOKENIZER).write_text(json.dumps(slim.content, ensure_ascii=False), encoding="utf-8")
        _edit(directory / TOKENIZER_CONFIG, lambda fields: with_new_ids(fields, ids))
        found = load_tokenizer(directory)
    if found.get_vocab() != slim.ids:
        raise UnsupportedUnit(in_words(loaded.family.model_type, OTHER_IDS), param="method.units")
    return SlimVocabulary(ids, loaded.tokenizer, found)


def cut_vocabulary(loaded: LoadedModel, kept_K: Tensor) -> LoadedModel:
    """Keep these rows alone of the embeddings and the head of a model in place, with the tokenizer that has their
    tokens alone, and the ids in its configs renumbered.

    Raises UnsupportedUnit where the pieces of the tokenizer cannot be removed.
    """
    model = loaded.model
    vocabulary = slim_vocabulary(loaded, kept_K)
    slim = replace(loaded, tokenizer=vocabulary.slim, vocabulary=vocabulary)
    cut_rows(model, kept_K)
    for config in {id(config): config for config in (*configs_of(model), *parts_of(model))}.values():
        renumber(vars(config), vocabulary.ids)
    if isinstance(getattr(model, "generation_config", None), GenerationConfig):
        renumber(vars(model.generation_config), vocabulary.ids)
    modules: list[Any] = list(model.modules())
    for module in modules:  # embeddings, and models that remember the padding token of their config
        if getattr(module, "padding_idx", None) is not None:
            module.padding_idx = vocabulary.ids.get(module.padding_idx, module.padding_idx)
    return slim


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8"))), ensure_ascii=False))
