from dataclasses import replace
from typing import Any

import pytest
from transformers import BertConfig, T5Config

from service.contract.errors import InvalidData, InvalidLabels, InvalidModel, InvalidTemplate
from service.contract.request import presets
from service.contract.request.task import Task
from service.models.families.family import Kind
from service.rows.row import Row
from tests.support import checkpoints
from worker.data.examples import Example
from worker.data.prompts import encode, row_tokens
from worker.data.wordings import LABEL_PREFIXES, Wording, wording, written_in_template

LABELS = {"1": "positive", "0": "negative"}
TEMPLATE = "Review: {text}\nAnswer:"


def task_of(**fields: Any) -> Task:
    kept = {"template": TEMPLATE, "labels": LABELS, "calibration": {"uri": "file:///rows.jsonl"}} | fields
    return presets.resolve(Task.model_validate(kept))


def wording_for(family: Kind = "causal", max_tokens: int | None = None, **fields: Any) -> Wording:
    config = BertConfig(max_position_embeddings=max_tokens or 10_000, id2label={0: "negative", 1: "positive"})
    fields = {"special_tokens": None if family != "causal" else False} | fields
    return wording(family, task_of(**fields), checkpoints.tokenizer(family), config)


def generation(max_tokens: int | None = None, family: Kind = "causal") -> Wording:
    return wording_for(family, max_tokens, kind="generation", labels=None)


def row_of(text: str = "a good film", label: str = "1", **more: Any) -> Row:
    return Row({"text": text, "label": label, **more}, line=7)


def spell(tokens: tuple[int, ...]) -> str:
    decoded = checkpoints.tokenizer().decode(list(tokens))
    assert isinstance(decoded, str)
    return decoded


def encode_one(wording: Wording, row: Row | None = None) -> Example:
    [example], _ = encode([row or row_of()], wording)
    return example


def test_prompt_and_candidates_spell_the_template_and_the_label_words() -> None:
    example = encode_one(wording_for())
    assert spell(example.prompt) == "Review: a good film\nAnswer:"
    assert [spell(candidate) for candidate in example.candidates] == [" positive", " negative"]
    assert example.answer == 0


def test_a_label_word_that_the_tokenizer_knows_is_one_token() -> None:
    assert [len(candidate) for candidate in encode_one(wording_for()).candidates] == [1, 1]


@pytest.mark.parametrize("prefix", ["", " ", "pos", "\n"])
def test_tokens_are_those_of_the_whole_text_wherever_the_tokenizer_merges(prefix: str) -> None:
    # "pos" and "itive" apart are other tokens than "positive": the boundary has to move.
    words = {"1": "itive", "0": "negative"}
    example = encode_one(wording_for(template="{text} " + prefix, label_prefix="", labels=words))
    for candidate, word in zip(example.candidates, words.values(), strict=True):
        whole = checkpoints.tokenizer()(f"a good film {prefix}{word}", add_special_tokens=False)["input_ids"]
        assert [*example.prompt, *candidate] == whole


@pytest.mark.parametrize(
    "family", sorted(LABEL_PREFIXES.keys() - {"token_classifier", "encoder"})
)  # which answer otherwise
def test_prompts_have_the_special_tokens_of_the_tokenizer_unless_the_task_says(family: Kind) -> None:
    prompts = {special: encode_one(wording_for(family, special_tokens=special)).prompt for special in (False, True)}
    stock = checkpoints.tokenizer(family)("Review: a good film\nAnswer:")["input_ids"]
    assert list(prompts[True]) == stock
    assert len(prompts[True]) > len(prompts[False])
    assert encode_one(wording_for(family, special_tokens=None)).prompt == prompts[True]


def test_a_decoder_reads_opening_tokens_and_no_closing_ones() -> None:
    example = encode_one(wording_for(special_tokens=True))
    assert spell(example.prompt) == "<s>Review: a good film\nAnswer:"
    assert spell(example.candidates[0]) == " positive"


@pytest.mark.parametrize(
    ("family", "template", "found"),
    [
        ("causal", "<s>Review: {text}\nAnswer:", ["<s>"]),
        ("encoder_decoder", "Review: {text}\nAnswer:</s>", ["</s>"]),
        ("classifier", "<s>Review: {text}\nAnswer:</s>", ["<s>", "</s>"]),
    ],
)
def test_special_tokens_that_the_template_has_are_not_added_again(
    family: Kind, template: str, found: list[str]
) -> None:
    plain, written = (
        wording_for(family, special_tokens=None),
        wording_for(family, template=template, special_tokens=None),
    )
    assert encode_one(written).prompt == encode_one(plain).prompt
    assert (written_in_template(plain), written_in_template(written)) == ([], found)


def test_the_longer_of_two_labels_can_win_where_the_shorter_one_begins_it() -> None:
    labels = {"1": "good bad", "0": "good"}
    example = encode_one(wording_for(labels=labels))
    assert [spell(candidate) for candidate in example.candidates] == [" good bad</s>", " good</s>"]
    assert [spell(each) for each in encode_one(wording_for("encoder_decoder", labels=labels)).candidates] == [
        "good bad</s>",
        "good</s>",
    ]


def test_labels_of_which_one_begins_another_need_an_end_token() -> None:
    wording = wording_for(labels={"1": "bad", "2": "good bad", "0": "good"})
    wording.tokenizer.eos_token = None
    with pytest.raises(InvalidLabels, match="the tokens of the answer 'good' begin those of 'good bad'"):
        encode_one(wording, row_of(label="1"))


def test_a_token_beyond_the_embedding_is_an_invalid_model() -> None:
    wording = wording_for()
    wording.tokenizer.add_tokens(["<extra>"])
    short = replace(wording, vocabulary=len(wording.tokenizer) - 1)
    assert encode_one(short)
    with pytest.raises(InvalidModel, match=r"the token \d+ \('<extra>'\), and the model has embeddings of \d+ tokens"):
        encode_one(short, row_of("a <extra> film"))


def test_a_row_is_cut_to_the_budget_of_a_batch() -> None:
    config = T5Config(vocab_size=128)
    asked = wording("encoder_decoder", task_of(), checkpoints.tokenizer("encoder_decoder"), config, 600)
    [example], shortened = encode([row_of("good " * 1000)], asked)
    assert shortened == 1
    assert 590 <= row_tokens(example, "encoder_decoder") <= 600


def test_classes_of_a_head_are_found_by_name() -> None:
    assert encode_one(wording_for("classifier")).candidates == ((1,), (0,))
    with pytest.raises(InvalidLabels, match="which the model's head does not have; it has negative, positive"):
        wording_for("classifier", labels={"1": "positive", "0": "awful"})


@pytest.mark.parametrize("family", ["causal", "encoder_decoder"])
def test_a_generated_target_ends_with_the_end_token(family: Kind) -> None:
    example = encode_one(generation(family=family), row_of(target="good"))
    assert len(example.candidates) == 1
    assert spell(example.candidates[0]).strip() == "good</s>"
    assert example.text == "good"


@pytest.mark.parametrize("family", ["causal", "encoder_decoder"])
def test_the_first_of_several_targets_is_scored(family: Kind) -> None:
    several = encode_one(generation(family=family), row_of(target=["good", "a good film", "bad"]))
    alone = encode_one(generation(family=family), row_of(target="good"))
    longest = encode_one(generation(family=family), row_of(target="a good film"))
    assert (several.prompt, several.candidates, several.text) == (alone.prompt, alone.candidates, "good")
    assert several.references == ("good", "a good film", "bad")
    assert several.other_tokens == len(longest.candidates[0]) > len(alone.candidates[0])
    assert (alone.references, alone.other_tokens) == (("good",), 0)


def test_any_column_fills_the_template_and_its_braces_stay() -> None:
    example = encode_one(
        wording_for(template="[ {title} ] {number}: {text}", max_words=1), row_of("{x} y", title="bad", number=3)
    )
    assert spell(example.prompt).startswith("[ bad ]")
    assert "{" not in spell(encode_one(wording_for(), row_of("film")).prompt)


def test_max_words_cuts_every_field() -> None:
    wording = wording_for(template="{text} : {text_b}", max_words=2)
    assert spell(encode_one(wording, row_of("a good film", text_b="a bad lazy dog")).prompt) == "a good : a bad"


def test_a_prompt_that_is_too_long_loses_words_of_its_text_and_none_of_the_template() -> None:
    row = row_of("good " * 50)
    whole = encode_one(wording_for(), row)
    for limit in range(len(encode_one(wording_for(), row_of("good")).prompt), len(whole.prompt)):
        [example], shortened = encode([row], wording_for(max_tokens=limit))
        words = spell(example.prompt).removeprefix("Review: ").removesuffix("\nAnswer:").split()
        assert shortened == 1
        assert limit - 1 <= row_tokens(example, "causal") <= limit
        assert set(words) == {"good"}
    assert encode([row], wording_for(max_tokens=len(whole.prompt))) == ([whole], 0)


def test_the_longest_field_is_shortened_first() -> None:
    wording = wording_for(template="{text} : {text_b}", max_tokens=20)
    example = encode_one(wording, row_of("bad bad", text_b="good " * 50))
    assert spell(example.prompt).startswith("bad bad : good good good")


def test_a_template_that_alone_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidTemplate, match=r"the template alone takes \d+ tokens .* the model takes 4"):
        encode_one(wording_for(max_tokens=4))


def test_a_target_that_is_too_long_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidData, match="line 7 has a target of 51 tokens"):
        encode_one(generation(max_tokens=40), row_of(target="good " * 49 + "good"))


def test_labels_with_the_same_tokens_are_refused() -> None:
    with pytest.raises(InvalidLabels, match="'positive' and 'positiveé' are the same tokens"):
        encode_one(wording_for(labels={"1": "positive", "0": "positiveé"}))  # the vocabulary lacks é


def test_an_answer_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidLabels, match="nothing of the answer 'é'"):
        encode_one(wording_for(labels={"1": "positive", "0": "é"}, label_prefix=""))


def test_numbers_serve_as_labels_and_texts() -> None:
    example = encode_one(wording_for(), Row({"text": 3, "label": 0}, line=1))
    assert example.answer == 1
