"""Tokenizers without some of their pieces: what they read as before, and that they still read everything."""

import json
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.contract.errors import UnsupportedUnit
from service.models.vocabulary.checks import check_pieces
from service.models.vocabulary.piece_models import UnsupportedPieces
from service.models.vocabulary.tokenizer_file import TokenizerFile, new_ids
from tests.support.piece_tokenizers import CORPUS, TOKENIZERS

TEXT = f"{CORPUS[0]}. {CORPUS[1]}"  # what the kept pieces cover; the rest of the corpus has other words
COVERED = sorted({*TEXT.replace(",", " ").replace(":", " ").replace(".", " ").split()})


class Cut(NamedTuple):
    """A tokenizer before and after the cut."""

    dense: Tokenizer
    slim: Tokenizer
    kept: set[int]
    file: TokenizerFile


@cache
def cut(name: str) -> Cut:
    """A tokenizer with the pieces that TEXT needs alone."""
    dense = TOKENIZERS[name]()
    file = TokenizerFile(json.loads(dense.to_str()))
    used = dense.encode(TEXT, add_special_tokens=False).ids
    kept = file.with_parts(used) | file.always()
    slim = file.cut(kept, dense.get_vocab_size())
    return Cut(dense, Tokenizer.from_str(json.dumps(slim.content)), kept, file)


every_kind = pytest.mark.parametrize("name", TOKENIZERS)


@every_kind
def test_pieces_are_removed_and_the_others_numbered_anew(name: str) -> None:
    dense, slim, kept, file = cut(name)
    assert slim.get_vocab_size() == len(kept) < dense.get_vocab_size()
    ids = new_ids(kept, dense.get_vocab_size(), dense.get_vocab_size())
    assert slim.get_vocab() == {token: ids[number] for token, number in file.ids.items() if number in kept}


@every_kind
@settings(max_examples=40, deadline=None, derandomize=True)
@given(words=st.lists(st.sampled_from(COVERED), min_size=1, max_size=12), data=st.data())
def test_covered_texts_have_the_same_tokens(name: str, words: list[str], data: Any) -> None:
    dense, slim, kept, _ = cut(name)
    text = data.draw(st.sampled_from(["", " "])) + " ".join(words)
    before = dense.encode(text)
    if kept.issuperset(before.ids):
        after = slim.encode(text)
        assert after.tokens == before.tokens
        assert after.offsets == before.offsets
        assert after.ids == [new_ids(kept, 10**6, 0)[number] for number in before.ids]


@every_kind
def test_the_text_itself_is_covered(name: str) -> None:
    dense, slim, _, _ = cut(name)
    assert slim.encode(TEXT).tokens == dense.encode(TEXT).tokens


@every_kind
@settings(max_examples=80, deadline=None, derandomize=True)
@given(text=st.text(max_size=40) | st.lists(st.sampled_from(sorted({*" ".join(CORPUS).split()}))).map(" ".join))
def test_any_text_is_read_without_loss(name: str, text: str) -> None:
    dense, slim, _, _ = cut(name)
    before, after = dense.encode(text, add_special_tokens=False), slim.encode(text, add_special_tokens=False)
    assert slim.decode(after.ids, skip_special_tokens=False) == dense.decode(before.ids, skip_special_tokens=False)
    assert len(after.ids) >= len(before.ids)


@every_kind
def test_other_texts_have_more_tokens(name: str) -> None:
    dense, slim, _, _ = cut(name)
    assert len(slim.encode(CORPUS[3]).ids) > len(dense.encode(CORPUS[3]).ids)


@every_kind
def test_a_cut_that_keeps_everything_changes_nothing(name: str) -> None:
    dense, _, _, file = cut(name)
    rows = dense.get_vocab_size()
    assert file.cut(range(rows), rows).content == file.content


def test_merges_of_removed_pieces_are_gone() -> None:
    _, slim, _, file = cut("byte-level BPE")
    model = json.loads(slim.to_str())["model"]
    assert all({first, second, first + second} <= model["vocab"].keys() for first, second in model["merges"])
    assert len(model["merges"]) < len(file.content["model"]["merges"])


def test_the_special_tokens_of_the_frame_have_their_new_ids() -> None:
    for name, first, last in (("byte-level BPE", "<s>", "</s>"), ("WordPiece", "[CLS]", "[SEP]")):
        slim = cut(name).slim
        ids = slim.encode("the").ids
        assert (ids[0], ids[-1]) == (slim.token_to_id(first), slim.token_to_id(last))


def test_a_character_without_a_piece_of_its_own_keeps_the_longer_ones() -> None:
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9,
    }
    pieces = ["[UNK]", "a", "b", "##b", "ab", "##cb", "az"]
    content = {"model": model | {"vocab": {piece: number for number, piece in enumerate(pieces)}}}
    always = TokenizerFile(content).always()
    assert {pieces[number] for number in always} == {"[UNK]", "a", "b", "##b", "##cb", "az"}


def test_unused_pieces_are_ordered_by_the_training_of_the_tokenizer() -> None:
    merges = [["a", "b"], ["ab", "c"]]
    vocab = {"a": 3, "b": 2, "c": 1, "ab": 4, "abc": 0}
    file = TokenizerFile({"model": {"type": "BPE", "vocab": vocab, "merges": merges}})
    assert file.rarest_first() == [0, 4, 3, 2, 1]
    assert file.with_parts([0]) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "model", [{"type": "WordLevel", "vocab": {}}, {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}}]
)
def test_other_kinds_of_models_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPieces):
        TokenizerFile({"model": model}).always()
    with pytest.raises(UnsupportedUnit, match="leave `vocabulary` out"):
        check_pieces(TokenizerFile({"model": model}), "llama")
