"""Models with fewer tokens: their logits and tokenizers, as files, against those of the dense model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, GPT2Tokenizer, PreTrainedTokenizerFast, T5Tokenizer

from service.contract.errors import UnsupportedUnit
from tests.support.piece_tokenizers import CORPUS, LOADED
from tests.support.tiny_models import TINY, causal, changed, inputs_of
from tests.worker.checkpoints.test_tokenizer_files import FILES
from tests.worker.checkpoints.test_tokenizer_files import write as write_with_own_files
from worker.checkpoints.loading import LoadedModel, load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.vocabularies import cut_vocabulary, ids_in_configs, slim_vocabulary, tokenizer_file
from worker.slimming.architectures import architecture_of
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.slimming.surgery.vocabulary import cut_rows, num_rows
from worker.slimming.units.groups import VOCABULARY
from worker.slimming.units.locating import locate
from worker.slimming.units.vocabulary import vocabulary_parameters

TEXT = CORPUS[1]
# The head of each tokenizer's special tokens, and a model that reads its tokens.
MODELS: dict[str, Any] = {
    "byte-level BPE": ("gpt2", {}),
    "BPE with bytes": ("llama", {"tie_word_embeddings": True}),
    "Unigram": ("t5", {}),
    "WordPiece": ("bert", {}),
}
UNCUT = ("gemma4_text", "gemma4_text_shared", "m2m_100", "marian")  # their families refuse the unit


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def loaded_with(name: str, directory: Path) -> LoadedModel:
    """A tiny model with more rows than its tokenizer has tokens, loaded from its files."""
    tokenizer, (family, settings) = LOADED[name](), MODELS[name]
    model = changed(family, vocab_size=len(tokenizer) + 7, **settings)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return load_model(directory, device=torch.device("cpu"))


def kept_for(loaded: LoadedModel, text: str) -> Tensor:
    """The rows that a text needs."""
    file = tokenizer_file(loaded)
    used = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    stay = file.with_parts([*used, *ids_in_configs(loaded)]) | file.always()
    return torch.tensor(sorted(row for row in stay if row < num_rows(loaded.model)))


def logits(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("name", LOADED)
def test_a_saved_model_answers_covered_texts_as_before(name: str, tmp_path: Path) -> None:
    dense = loaded_with(name, tmp_path / "dense")
    kept_K = kept_for(dense, TEXT)
    copy = LoadedModel(**{**vars(dense), "model": copy_sharing_tensors(dense.model)})
    slim = cut_vocabulary(copy, kept_K)
    save_model(slim, tmp_path / "slim")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "slim")
    assert tokenizer.tokenize(TEXT) == dense.tokenizer.tokenize(TEXT)
    assert len(tokenizer.tokenize(CORPUS[3])) > len(dense.tokenizer.tokenize(CORPUS[3]))
    model = type(dense.model).from_pretrained(tmp_path / "slim")
    assert num_rows(model) == model.config.vocab_size == len(kept_K) < num_rows(dense.model)
    own, before = tokenizer(TEXT, return_tensors="pt"), dense.tokenizer(TEXT, return_tensors="pt")
    assert torch.equal(kept_K[own["input_ids"]], before["input_ids"])
    start = {"decoder_input_ids": torch.tensor([[0, 1]])} if model.config.is_encoder_decoder else {}
    old_start = {key: kept_K[value] for key, value in start.items()}
    after = logits(model, input_ids=own["input_ids"], **start)
    expected = logits(dense.model, input_ids=before["input_ids"], **old_start)
    has_head = expected.shape[-1] == num_rows(dense.model)
    torch.testing.assert_close(after, expected[..., kept_K] if has_head else expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name not in UNCUT])
def test_rows_are_cut_out_of_every_embedding_and_head(name: str) -> None:
    dense = TINY[name]()
    kept_K = torch.tensor(sorted({*range(0, 128, 3), 1, 2, 4}))
    slim = copy_sharing_tensors(dense)
    cut_rows(slim, kept_K)
    inputs = {key: value % len(kept_K) for key, value in inputs_of(dense).items()}
    expected = logits(dense, **{key: kept_K[value] for key, value in inputs.items()})
    has_head = expected.shape[-1] == 128
    torch.testing.assert_close(
        logits(slim, **inputs), expected[..., kept_K] if has_head else expected, rtol=0, atol=1e-6
    )
    assert vocabulary_parameters(slim) == vocabulary_parameters(dense)  # what was shared still is
    assert not [parameter for parameter in slim.parameters() if parameter.dim() > 1 and 128 in parameter.shape]


def test_shared_rows_are_counted_once() -> None:
    for tied, parameters in ((True, 32), (False, 64)):
        model = causal("llama", tie_word_embeddings=tied)
        [group] = locate(model, architecture_of(model), ["vocabulary"])
        assert (group.site, group.count, group.parameters) == (VOCABULARY, 128, parameters)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", [name for name in FILES if name not in UNCUT])
def test_tokenizers_of_their_own_classes_are_cut(name: str, tmp_path: Path) -> None:
    write_with_own_files(tmp_path / "dense", name)
    dense = load_model(tmp_path / "dense", device=torch.device("cpu"))
    text = "good film: bad"
    kept_K = kept_for(dense, text)
    slim = cut_vocabulary(dense, kept_K)
    save_model(slim, tmp_path / "slim")
    again = AutoTokenizer.from_pretrained(tmp_path / "slim")
    assert again.tokenize(text, add_special_tokens=True) == dense.tokenizer.tokenize(text, add_special_tokens=True)
    assert type(again) is type(dense.tokenizer)
    spm = [path.name for path in (tmp_path / "slim").iterdir() if path.suffix in (".model", ".spm")]
    assert not spm  # the pieces of sentencepiece would be those of the dense model


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", ["m2m_100", "marian"])
def test_a_tokenizer_in_python_is_refused(name: str, tmp_path: Path) -> None:
    write_with_own_files(tmp_path, name)
    with pytest.raises(UnsupportedUnit, match="not a fast one"):
        tokenizer_file(load_model(tmp_path, device=torch.device("cpu")))


def test_a_class_that_gives_other_ids_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_with("Unigram", tmp_path / "dense")
    other = LOADED["WordPiece"]()
    monkeypatch.setattr("worker.checkpoints.vocabularies.load_tokenizer", lambda directory: other)
    with pytest.raises(UnsupportedUnit, match="does not take the ids"):
        slim_vocabulary(loaded, kept_for(loaded, TEXT))


def test_ids_in_the_configs_are_renumbered(tmp_path: Path) -> None:
    loaded = loaded_with("byte-level BPE", tmp_path / "dense")
    end, other = len(loaded.tokenizer) - 1, len(loaded.tokenizer) - 2
    model: Any = loaded.model
    model.config.sep_token_id = end
    model.generation_config = GenerationConfig(
        eos_token_id=[2, end],
        suppress_tokens=[other, end],
        begin_suppress_tokens=[other],
        bad_words_ids=[[end], [end, other]],
        forced_decoder_ids=[[1, end], [2, other]],
        sequence_bias=[[[end], -1.0], [[other], 1.0]],
    )
    kept_K = kept_for(loaded, TEXT)
    assert end in kept_K
    assert other not in kept_K
    slim: Any = cut_vocabulary(loaded, kept_K).model
    new = kept_K.tolist().index(end)
    generation = slim.generation_config
    assert (slim.config.sep_token_id, slim.config.vocab_size) == (new, len(kept_K))
    assert (generation.eos_token_id, generation.suppress_tokens) == ([2, new], [new])
    assert (generation.begin_suppress_tokens, generation.bad_words_ids) == (None, [[new]])
    assert (generation.forced_decoder_ids, generation.sequence_bias) == ([[1, new]], [[[new], -1.0]])


def test_the_configs_of_both_stacks_are_renumbered_once(tmp_path: Path) -> None:
    model: Any = TINY["t5gemma"]()
    for config in (model.config, model.config.encoder, model.config.decoder):
        config.eos_token_id = 50
    model.save_pretrained(tmp_path)
    LOADED["Unigram"]().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device=torch.device("cpu"))
    kept_K = torch.tensor([0, 1, 2, 3, *range(10, 128, 4)])
    slim: Any = cut_vocabulary(loaded, kept_K).model
    found = [config.eos_token_id for config in (slim.config, slim.config.encoder, slim.config.decoder)]
    assert found == [kept_K.tolist().index(50)] * 3
    assert {slim.config.vocab_size, slim.config.encoder.vocab_size, slim.config.decoder.vocab_size} == {len(kept_K)}


def test_files_for_older_readers_have_the_new_ids(tmp_path: Path) -> None:
    loaded = loaded_with("byte-level BPE", tmp_path / "dense")
    directory = tmp_path / "dense"
    added = {"3": {"content": "<unk>", "special": True}, "0": {"content": "<pad>", "special": True}}
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
    (directory / "vocab.json").write_text("{}")
    (directory / "merges.txt").write_text("")
    kept_K = kept_for(loaded, TEXT)
    save_model(cut_vocabulary(loaded, kept_K), tmp_path / "slim")
    written = json.loads((tmp_path / "slim/tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"]: kept_K[int(number)].item() for number, token in written.items()} == {
        "<unk>": 3,
        "<pad>": 0,
    }
    from_texts = GPT2Tokenizer(str(tmp_path / "slim/vocab.json"), str(tmp_path / "slim/merges.txt"))
    assert from_texts.tokenize(TEXT) == AutoTokenizer.from_pretrained(tmp_path / "slim").tokenize(TEXT)


def test_tokens_behind_the_embedding_stay_behind_it(tmp_path: Path) -> None:
    tokenizer = LOADED["byte-level BPE"]()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    changed("gpt2", vocab_size=rows).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device=torch.device("cpu"))
    kept_K = kept_for(loaded, TEXT)
    slim = slim_vocabulary(loaded, kept_K).slim
    assert isinstance(slim, PreTrainedTokenizerFast)
    assert slim.convert_tokens_to_ids("<image>") == len(kept_K)


def test_a_t5_tokenizer_keeps_its_sentinels(tmp_path: Path) -> None:
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("a", -4.0), ("▁aa", -5.0)],
        extra_ids=4,
    )
    tokenizer.save_pretrained(tmp_path)
    changed("t5", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device=torch.device("cpu"))
    slim = slim_vocabulary(loaded, torch.tensor(sorted(tokenizer_file(loaded).always()))).slim
    assert slim.get_vocab()["<extra_id_0>"] < len(slim)
    assert "▁a" not in slim.get_vocab()
