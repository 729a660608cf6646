"""Writes a model as an ordinary Hugging Face checkpoint."""

import shutil
from pathlib import Path

from service.sources.model_files import CONFIG
from worker.checkpoints.dtypes import cast_weights, weight_dtypes
from worker.checkpoints.encoders import copy_sentence_files
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.older_readers import write_for_older_readers


def save_model(loaded: LoadedModel, directory: Path) -> None:
    """Write model and tokenizer in the dtype of the checkpoint that was loaded. The model in memory stays as it is.

    The files of the weights get the permissions of config.json; safetensors gives them to their owner alone.
    """
    computed_in = weight_dtypes(loaded.model)
    cast_weights(loaded.model, loaded.dtype)
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    write_for_older_readers(directory, loaded.directory, loaded.vocabulary.ids if loaded.vocabulary else None)
    if loaded.sentence_encoder is not None:
        copy_sentence_files(loaded.directory, directory)
    for weights in directory.glob("*.safetensors"):
        shutil.copymode(directory / CONFIG, weights)
    cast_weights(loaded.model, computed_in)
