"""Writes the files of sentence-transformers beside a checkpoint."""

import json
from pathlib import Path
from typing import Any

TYPES = "sentence_transformers.models."


def write(directory: Path, pooling: str = "mean_tokens", *, normalise: bool = True, **settings: Any) -> None:
    """Files that pool by the mode `pooling`; `settings` are those of sentence_bert_config.json."""
    modules = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalise else {})
    write_modules(directory, modules)
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    write_pooling(directory, word_embedding_dimension=32, **modes)
    settings = {"max_seq_length": 24, "do_lower_case": False} | settings
    (directory / "sentence_bert_config.json").write_text(json.dumps(settings))


def write_modules(directory: Path, modules: dict[str, str]) -> None:
    """The file modules.json; `modules`: class -> directory."""
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": TYPES + name}
        for index, (name, path) in enumerate(modules.items())
    ]
    (directory / "modules.json").write_text(json.dumps(entries))


def write_pooling(directory: Path, **config: Any) -> None:
    """The config of the pooling."""
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling/config.json").write_text(json.dumps(config))
