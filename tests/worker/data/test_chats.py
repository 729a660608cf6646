"""Conversations as tokens: those that the chat template of the model writes, at their places."""

from typing import Any

import pytest
from transformers import BertConfig

from service.contract.errors import InvalidData, InvalidLabels, InvalidModel
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.contract.row_values import usable_values
from service.models.families.family import Kind
from service.rows.labels import with_named_labels
from service.rows.row import Row
from tests.support import chat_templates
from tests.support.chat_templates import ENDLESS, UNUSABLE, USABLE
from worker.data.examples import Example
from worker.data.prompts import encode, row_tokens
from worker.data.wordings import Wording, wording

LABELS = {"1": "positive", "0": "negative"}
GENERATION: dict[str, Any] = {"kind": "generation"}
CLASSIFICATION: dict[str, Any] = {"labels": LABELS}
TURNS = [("user", "good film"), ("assistant", "positive"), ("user", "a bad plot"), ("assistant", "negative")]


def chat(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def row_of(*turns: tuple[str, Any]) -> Row:
    return Row(usable_values({"messages": chat(*turns)}), line=7)


def asked(
    template: str | None, task: dict[str, Any] = GENERATION, kind: Kind = "causal", max_tokens: int | None = None
) -> Wording:
    raw = task | {"messages": "messages", "calibration": {"uri": "file:///rows.jsonl"}}
    config = BertConfig(
        vocab_size=128, max_position_embeddings=max_tokens or 10_000, id2label={0: "negative", 1: "positive"}
    )
    return wording(kind, resolve(Task.model_validate(raw)), chat_templates.tokenizer(template, kind), config)


def encoded(wording: Wording, row: Row, **how: Any) -> list[Example]:
    examples, _ = encode(with_named_labels([row], wording.task), wording, **how)
    return examples


def spelled(wording: Wording, tokens: tuple[int, ...]) -> str:
    return str(wording.tokenizer.decode(list(tokens)))


def rendered(wording: Wording, turns: list[tuple[str, Any]], **how: Any) -> list[int]:
    """The tokens of the stock method."""
    return list(wording.tokenizer.apply_chat_template(chat(*turns), return_dict=False, **how))


@pytest.mark.parametrize("name", USABLE)
def test_tokens_of_every_answer_are_those_of_the_template(name: str) -> None:
    wording = asked(USABLE[name])
    turns = TURNS if name == "strict" else [("system", "be quick"), *TURNS]
    places = [place for place, (role, _) in enumerate(turns) if role == "assistant"]
    examples = encoded(wording, row_of(*turns), every_answer=True)
    assert len(examples) == len(places) == 2
    for example, place in zip(examples, places, strict=True):
        whole = rendered(wording, turns[: place + 1])
        found = [*example.prompt, *example.candidates[0]]
        assert found == whole[: len(found)]
        assert list(example.prompt) == rendered(wording, turns[:place], add_generation_prompt=True)
        assert example.candidates[0][-1] in wording.tokenizer.all_special_ids
        assert spelled(wording, tuple(whole[len(found) :])).strip() == ""
        assert turns[place][1] in example.text
    assert encoded(wording, row_of(*turns)) == examples[1:]


@pytest.mark.parametrize("name", USABLE)
def test_label_words_follow_the_prompt_of_the_template(name: str) -> None:
    wording = asked(USABLE[name], CLASSIFICATION)
    [example] = encoded(wording, row_of(*TURNS), every_answer=True)
    for word, candidate in zip(LABELS.values(), example.candidates, strict=True):
        whole = rendered(wording, [*TURNS[:-1], ("assistant", word)])
        found = [*example.prompt, *candidate]
        assert found == whole[: len(found)]
        assert spelled(wording, candidate).strip() == word
    assert (example.answer, example.text) == (1, "negative")


@pytest.mark.parametrize("name", ["bracketed", "trimmed"])
@pytest.mark.parametrize("task", [GENERATION, CLASSIFICATION])
def test_a_beginning_of_sequence_that_the_template_writes_is_there_once(name: str, task: dict[str, Any]) -> None:
    wording = asked(USABLE[name], task)
    [example] = encoded(wording, row_of(*TURNS))
    assert example.prompt.count(wording.tokenizer.bos_token_id) == 1
    assert example.prompt[0] == wording.tokenizer.bos_token_id


def test_no_special_token_is_added_to_what_the_template_writes() -> None:
    wording = asked(USABLE["headed"])
    assert wording.tokenizer("a")["input_ids"][0] == wording.tokenizer.bos_token_id
    [example] = encoded(wording, row_of(*TURNS))
    assert wording.tokenizer.bos_token_id not in example.prompt


def test_an_answer_ends_with_the_end_of_its_turn() -> None:
    for name, end in (("headed", "<|end|>"), ("bracketed", "</s>")):
        wording = asked(USABLE[name])
        [example] = encoded(wording, row_of(*TURNS))
        assert spelled(wording, example.candidates[0]).endswith(end)
        assert wording.ends == (example.candidates[0][-1],)
        assert example.text.strip() == "negative"


def test_labels_of_which_one_begins_another_end_with_their_turn() -> None:
    for name, end in (("headed", "<|end|>"), ("bracketed", " </s>")):
        wording = asked(USABLE[name], {"labels": {"1": "good bad", "0": "good"}})
        [example] = encoded(wording, row_of(("user", "film"), ("assistant", "good")))
        for word, candidate in zip(("good bad", "good"), example.candidates, strict=True):
            whole = rendered(wording, [("user", "film"), ("assistant", word)])
            assert [*example.prompt, *candidate] == whole[: len(example.prompt) + len(candidate)]
            assert spelled(wording, candidate).endswith(word + end)


def test_contents_in_parts_are_their_texts() -> None:
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "film"}]
    wording = asked(USABLE["headed"])
    assert encoded(wording, row_of(("user", parts), TURNS[1])) == encoded(wording, row_of(*TURNS[:2]))


def test_messages_after_the_last_answer_are_not_read() -> None:
    wording = asked(USABLE["headed"])
    assert encoded(wording, row_of(*TURNS, ("user", "and now?"))) == encoded(wording, row_of(*TURNS))


def test_an_answer_with_the_weight_zero_is_read_and_not_learnt() -> None:
    wording = asked(USABLE["headed"])
    messages = chat(*TURNS)
    messages[1]["weight"] = 0
    weighted = Row(usable_values({"messages": messages}), 7)
    assert encoded(wording, weighted, every_answer=True) == encoded(wording, row_of(*TURNS))


def test_without_supervision_the_model_answers_what_comes_last() -> None:
    for task in (GENERATION, CLASSIFICATION):
        wording = asked(USABLE["headed"], task | {"supervision": "none"})
        for turns in (TURNS[:3], TURNS):
            [example] = encoded(wording, row_of(*turns), answered=False, every_answer=True)
            assert list(example.prompt) == rendered(wording, TURNS[:3], add_generation_prompt=True)


@pytest.mark.parametrize("kind", ["encoder_decoder", "classifier"])
def test_other_kinds_of_models_read_the_prompt_of_the_template(kind: Kind) -> None:
    wording = asked(USABLE["thinking"], CLASSIFICATION, kind)
    [example] = encoded(wording, row_of(*TURNS))
    assert list(example.prompt) == rendered(wording, TURNS[:3], add_generation_prompt=True)
    if kind == "encoder_decoder":
        assert [spelled(wording, each) for each in example.candidates] == ["[ ]\npositive", "[ ]\nnegative"]
    else:
        assert example.candidates == ((1,), (0,))


def test_a_long_conversation_loses_words_of_its_longest_messages() -> None:
    turns = [("user", "good " * 40), ("assistant", "bad"), ("user", "a film"), ("assistant", "good")]
    whole = encoded(asked(USABLE["headed"]), row_of(*turns))[0]
    most = row_tokens(whole, "causal") - 10
    wording = asked(USABLE["headed"], max_tokens=most)
    [example], shortened = encode([row_of(*turns)], wording)
    assert shortened == 1
    assert most - 1 <= row_tokens(example, "causal") <= most
    assert example.candidates == whole.candidates
    text = spelled(wording, example.prompt)
    assert "a film<|end|>" in text
    assert text.count("good") < 40
    with pytest.raises(InvalidData, match=r"line 7 takes .* tokens with its answer even if every message"):
        encode([row_of(*turns)], asked(USABLE["headed"], max_tokens=12))


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    with pytest.raises(InvalidData, match=r"line 7: the chat template of the model refuses .* no system message"):
        encode([row_of(("system", "be quick"), *TURNS)], asked(USABLE["strict"]))


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("task", [GENERATION, CLASSIFICATION])
def test_a_template_without_a_place_for_answers_is_refused(name: str, task: dict[str, Any]) -> None:
    template, says = UNUSABLE[name]
    with pytest.raises(InvalidModel, match=says) as refused:
        asked(template, task)
    assert refused.value.param == "model.uri"


@pytest.mark.parametrize("kind", ["causal", "encoder_decoder", "classifier"])
def test_a_model_without_a_chat_template_is_refused(kind: Kind) -> None:
    for template in (None, "", {"tool_use": USABLE["headed"]}):
        with pytest.raises(InvalidModel, match=r"needs the chat template of the model, and the model has none"):
            asked(template, CLASSIFICATION, kind)  # type: ignore[arg-type]
    assert asked({"default": USABLE["headed"]}, CLASSIFICATION, kind)  # type: ignore[arg-type]


def test_a_conversation_that_the_template_writes_otherwise_with_its_answer_is_named() -> None:
    """A template that leaves earlier answers out once the last one is there."""
    only_last = USABLE["headed"].replace(
        "{{ '<|turn|>'",
        "{% if message['role'] == 'assistant' and messages[-1]['role'] == 'assistant' and not loop.last %}"
        "{{ '(an answer)' }}{% else %}{{ '<|turn|>'",
    )
    template = only_last.replace("'<|end|>\n' }}{% endfor %}", "'<|end|>\n' }}{% endif %}{% endfor %}")
    wording = asked(template)
    encoded(wording, row_of(*TURNS[:2]))
    with pytest.raises(InvalidModel, match=r"line 7: .* otherwise than the prompt that asks") as refused:
        encoded(wording, row_of(*TURNS))
    assert refused.value.param == "model.uri"


def test_texts_need_a_template_that_ends_them_and_labels_do_not() -> None:
    with pytest.raises(InvalidModel, match="writes no special token after an answer"):
        asked(ENDLESS)
    [example] = encoded(asked(ENDLESS, CLASSIFICATION), row_of(*TURNS))
    assert example.answer == 1
    with pytest.raises(InvalidLabels, match="begin those of 'good bad'"):
        encoded(
            asked(ENDLESS, {"labels": {"1": "good bad", "0": "good"}}), row_of(("user", "a"), ("assistant", "good"))
        )


def test_a_label_word_that_the_template_changes_is_refused() -> None:
    wording = asked(USABLE["trimmed"], {"labels": {"1": " positive", "0": "negative"}})
    encoded(wording, row_of(*TURNS))
    with pytest.raises(InvalidLabels, match="does not write the answer ' positive' as it is"):
        encoded(wording, row_of(*TURNS[:2]))
