"""Directories that are refused before anything of them is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from service.contract.errors import InvalidModel, TaskslimError, UnsupportedFamily
from service.sources.model_files import INDEX
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from worker.sources.validation import check_checkpoint


def pickle_only(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def tokenizer_with_code(directory: Path) -> None:
    checkpoints.change_json(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": "code.Mine"})


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_that_points_outside(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory.parent / "model.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


DAMAGE: dict[str, tuple[Callable[[Path], None], type[TaskslimError], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), InvalidModel, "config.json is missing"),
    "bad config": (lambda path: (path / "config.json").write_text("{"), InvalidModel, "cannot be read"),  # type: ignore[dict-item]
    "pickle": (pickle_only, InvalidModel, "save them as safetensors"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), InvalidModel, "no model.safetensors"),
    "remote code": (
        lambda path: change_config(path, auto_map={"AutoModel": "code.Mine"}),
        InvalidModel,
        "auto_map",
    ),
    "tokenizer code": (tokenizer_with_code, InvalidModel, "auto_map"),
    "quantised": (
        lambda path: change_config(path, quantization_config={"quant_method": "hqq"}),
        InvalidModel,
        "quantised",
    ),
    "family": (
        lambda path: change_config(path, model_type="mamba"),
        UnsupportedFamily,
        "'mamba', is not supported",
    ),
    "no family": (
        lambda path: change_config(path, model_type=None),
        UnsupportedFamily,
        "None, is not supported",
    ),
    "multimodal": (
        lambda path: change_config(path, model_type="llava", text_config={"model_type": "llama"}),
        UnsupportedFamily,
        "save its text part as a LlamaForCausalLM",
    ),
    "offsets": (checkpoints.write_wrong_offsets, InvalidModel, "model.safetensors is damaged"),
    "truncated": (truncated, InvalidModel, "model.safetensors is damaged"),
    "index": (index_that_points_outside, InvalidModel, "does not name files of its own directory"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_invalid_checkpoint_is_refused_before_it_is_loaded(directory: Path, damage: str) -> None:
    do_damage, error, message = DAMAGE[damage]
    do_damage(directory)
    with pytest.raises(error, match=message) as caught:
        check_checkpoint(directory)
    assert caught.value.param == "model.uri"
