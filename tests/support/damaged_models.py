"""Changes of the files of a tiny model that make a job on it impossible."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Lowercase

from tests.support import checkpoints
from tests.support.tiny_models import causal
from worker.checkpoints.model_classes.per_layer import to_loadable_class
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.surgery import slicing
from worker.slimming.units.groups import Site as UnitSite

WEIGHTS = "model.safetensors"


def one_head(directory: Path) -> None:
    causal("llama", num_key_value_heads=1).save_pretrained(directory)


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    """Changes fields of a JSON file of the model."""

    def edit(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def written(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Writes a file of the model in place of its own; None deletes it."""

    def write(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        if content is not None:
            (directory / name).write_bytes(content)

    return write


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        for each in changes:
            each(directory)

    return change


def extra_token(directory: Path) -> None:
    """Adds a token to the tokenizer that the embedding lacks."""
    tokenizer = checkpoints.tokenizer()
    tokenizer.add_tokens(["<review>"])
    tokenizer.save_pretrained(directory)
    edited("config.json", vocab_size=len(tokenizer) - 1)(directory)


def lowercased(directory: Path) -> None:
    """Lets the tokenizer write all letters small, which llama.cpp does not do."""
    tokenizer = checkpoints.tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.save_pretrained(directory)


def own_widths(directory: Path) -> None:
    """Gives the first layer a width of its own."""
    model, architecture = causal("llama"), ARCHITECTURES["llama"]
    slicing.cut(model, architecture, {UnitSite("decoder", 0, "ffn"): torch.arange(16)}, "per_layer")
    to_loadable_class(model, architecture).save_pretrained(directory)


def one_tensor_more(directory: Path) -> None:
    path = directory / WEIGHTS
    save_file(load_file(path) | {"model.layers.0.mlp.extra.weight": torch.ones(2)}, path, {"format": "pt"})


def one_tensor_fewer(directory: Path) -> None:
    path = directory / WEIGHTS
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "model.norm.weight"}
    save_file(tensors, path, {"format": "pt"})


def with_writer(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Adds a decoder that may write rows, with changed files, to the directory of the model."""

    def add(directory: Path) -> None:
        checkpoints.write(directory / "writer")
        change(directory / "writer")

    return add


def whole_words(directory: Path) -> None:
    """Replace the tokenizer by one that knows whole words alone."""
    content = json.loads((directory / "tokenizer.json").read_text())
    model = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "<unk>"}
    (directory / "tokenizer.json").write_text(json.dumps(content | {"model": model}))
