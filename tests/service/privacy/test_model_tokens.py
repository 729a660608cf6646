"""The tokens of models: which are candidates, how tables are read, and which models are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from service.contract.request.task import ModelSource
from service.privacy.model_tokens import ModelTokens, read_model_tokens
from tests.support import checkpoints
from tests.support.hub_cache import cache_hub_model
from tests.support.tiny_models import TINY, family_of_model

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"


def read(directory: Path) -> ModelTokens:
    return read_model_tokens(ModelSource(uri=directory.as_uri()))


def table_of(model: PreTrainedModel) -> NDArray[np.float32]:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    table: NDArray[np.float32] = weight.detach().float().numpy()
    return table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_table_is_read_exactly_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = checkpoints.write(tmp_path, dtype=dtype)
    expected = table_of(model)
    assert np.array_equal(read(tmp_path).space.embedding_VD, expected)


@pytest.mark.parametrize("name", TINY)
def test_the_names_of_every_family_include_its_table(name: str) -> None:
    model = TINY[name]()
    embedding = family_of_model(model).names.of(model.config.to_dict()).embedding
    part = model.get_decoder() if name == "t5gemma" else model  # whose encoder has a table of another size
    assert np.array_equal(model.get_parameter(embedding).detach().float().numpy(), table_of(part))


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "gpt_neox", "bart", "m2m_100"])
def test_the_table_is_found_in_the_files_of_other_families(tmp_path: Path, name: str) -> None:
    model = checkpoints.write(tmp_path, name)
    expected = table_of(model)
    assert np.array_equal(read(tmp_path).space.embedding_VD, expected)


def test_the_table_of_an_encoder_without_a_head_is_found(tmp_path: Path) -> None:
    encoder = checkpoints.write(tmp_path, "bert").base_model
    assert isinstance(encoder, PreTrainedModel)
    encoder.save_pretrained(tmp_path)
    assert np.array_equal(read(tmp_path).space.embedding_VD, table_of(encoder))


def test_the_table_of_a_model_in_several_files_is_found(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert np.array_equal(read(tmp_path).space.embedding_VD, table_of(model))


def test_a_model_in_the_cache_of_the_hub_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = cache_hub_model(monkeypatch, tmp_path)
    found = read_model_tokens(ModelSource(uri="hf://owner/name"))
    assert found.table_sha256 == read(directory).table_sha256


def test_candidates_are_tokens_of_text(tmp_path: Path) -> None:
    checkpoints.write(tmp_path)
    found = read(tmp_path)
    candidates = set(found.space.candidate_K.tolist())
    tokenizer = checkpoints.tokenizer()
    assert candidates.isdisjoint(tokenizer.all_special_ids)
    assert candidates < set(tokenizer.get_vocab().values())
    assert set(found.tokens_of("a positive film")) <= candidates
    assert set(found.tokens_of("\n")).isdisjoint(candidates)  # white space would leave an empty text
    assert all(found.text_of([token]).strip() for token in candidates)


def test_the_token_for_the_unknown_is_no_candidate_though_it_is_not_marked_as_special(tmp_path: Path) -> None:
    checkpoints.write(tmp_path)
    content = json.loads((tmp_path / TOKENIZER).read_text())
    word = next(token for token in content["model"]["vocab"] if token.endswith("positive"))
    content["model"]["unk_token"] = word
    (tmp_path / TOKENIZER).write_text(json.dumps(content))
    assert content["model"]["vocab"][word] not in read(tmp_path).space.candidate_K


def test_tokens_beyond_the_table_have_no_place(tmp_path: Path) -> None:
    checkpoints.write(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:50].clone()
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    space = read(tmp_path).space
    assert space.candidate_K.max() < 50
    assert not space.has_place(np.array([50, 127, 10**9, -1])).any()


def without(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def written(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def changed_table(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        tensors["model.embed_tokens.weight"] = change(tensors["model.embed_tokens.weight"]).contiguous()
        save_file(tensors, directory / WEIGHTS, {"format": "pt"})

    return apply


def without_table(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def with_index(weight_map: dict[str, str]) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "has no config.json: give the directory of a Hugging Face checkpoint"),
        (without(TOKENIZER), "has no tokenizer.json"),
        (written(TOKENIZER, "{"), "tokenizer.json of .* cannot be read as JSON"),
        (written(TOKENIZER, "[]"), "has a tokenizer.json that is not a JSON object"),
        (written(TOKENIZER, "{}"), "is no tokenizer that the library `tokenizers` reads"),
        (written("config.json", '{"model_type": "lost"}'), "'lost', is not supported"),
        (without(WEIGHTS), "so that its embeddings cannot be read: convert it to safetensors"),
        (written(WEIGHTS, "damaged"), "model.safetensors of .* is damaged"),
        (checkpoints.write_wrong_offsets, "model.safetensors of .* is damaged"),
        (without_table, "has no embedding table model.embed_tokens.weight in safetensors"),
        (with_index({"model.embed_tokens.weight": "../a.safetensors"}), "names files of other directories"),
        (with_index({"model.embed_tokens.weight": "a.safetensors"}), "lacks a.safetensors, which"),
        (with_index({"model.norm.weight": "a.safetensors"}), "has no embedding table"),
        (changed_table(lambda table: table.to(torch.float64)), "is F64 of the shape"),
        (changed_table(lambda table: table[0]), r"is F32 of the shape \[32\]"),
        (changed_table(lambda table: table / 0), "values that are not finite"),
        (changed_table(lambda table: table * 0), "fewer than 2 tokens"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    checkpoints.write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InvalidModel, match=message):
        read(tmp_path)


def test_a_model_in_an_object_store_is_refused() -> None:
    with pytest.raises(InvalidModel, match="download it and give its directory"):
        read_model_tokens(ModelSource(uri="s3://bucket/model"))
