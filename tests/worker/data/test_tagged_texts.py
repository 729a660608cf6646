"""Words with tags as tokens, compared with what each tokenizer makes of words that are given apart."""

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from service.contract.errors import InvalidModel
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.rows.row import Row
from tests.support import checkpoints
from tests.support.tiny_models import WITH_TOKEN_HEAD
from worker.data import tagged_texts
from worker.data.wordings import Wording, wording

WORDS = ["good", "film", ",", "goodfilm", "\u200b", "a", "plot"]
PIECES = {
    name: index for index, name in enumerate(["[UNK]", "[CLS]", "[SEP]", "good", "film", "##film", ",", "a", "plot"])
}


def wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer such as that of BERT, which makes nothing of a zero-width space."""
    inner = Tokenizer(models.WordPiece(PIECES, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def wording_of(tokenizer: Any, **fields: Any) -> Wording:
    task = Task.model_validate({"kind": "token_classification", "calibration": {"uri": "file:///rows.jsonl"}})
    made = wording("token_classifier", resolve(task), tokenizer, WITH_TOKEN_HEAD["bert"]().config)
    return replace(made, **fields)


def test_each_word_has_the_place_of_its_first_token() -> None:
    tokenizer = wordpiece()
    apart = tokenizer(WORDS, is_split_into_words=True)
    [example], cut = tagged_texts.encode([Row({"tokens": WORDS, "tags": ["O"] * 7}, 1)], wording_of(tokenizer))
    assert (list(example.prompt), cut) == (apart["input_ids"], 0)
    first = [apart.word_ids().index(word) for word in range(len(WORDS)) if word in apart.word_ids()]
    assert list(example.words or ()) == first
    assert len(first) == len(WORDS) - 1  # the zero-width space has no token


def test_a_word_in_the_middle_of_a_text_has_the_token_with_the_space_before_it() -> None:
    words = ["good", "film", "positive", "a"]
    tokenizer = checkpoints.tokenizer("token_classifier")
    ids, places = tagged_texts.words_in_place(words, wording_of(tokenizer))
    ends = [len(tokenizer(" ".join(words[:number]), add_special_tokens=False)["input_ids"]) for number in range(4)]
    assert places == ends
    assert tokenizer.decode(list(ids)) == " ".join(words)


@pytest.mark.parametrize(("most", "kept"), [(9, 6), (7, 4), (6, 3), (5, 3), (4, 2)])
def test_words_that_the_model_does_not_take_whole_are_left_out(most: int, kept: int) -> None:
    row = Row({"tokens": WORDS, "tags": ["O", "B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]}, 1)
    [example], cut = tagged_texts.encode([row], wording_of(wordpiece(), max_tokens=most))
    assert (len(example.words or ()), len(example.tags), cut) == (kept, kept, int(most < 9))
    assert len(example.prompt) == most
    assert example.text.split() == ["O", "B-PER", "I-PER", "O", "B-LOC", "I-LOC"][:kept]


def test_a_tokenizer_that_does_not_place_its_tokens_is_refused() -> None:
    row = Row({"tokens": WORDS, "tags": ["O"] * 7}, 1)
    with pytest.raises(InvalidModel, match=r"add the `tokenizer\.json`"):
        tagged_texts.encode([row], replace(wording_of(wordpiece()), tokenizer=CanineTokenizer()))
