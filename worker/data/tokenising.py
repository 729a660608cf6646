"""Turns a prompt and its answers into tokens, in the way of each kind of model."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from service.contract.errors import InvalidLabels, InvalidModel, InvalidTemplate
from service.contract.options import TaskKind
from service.models.families.family import Kind
from worker.data.wordings import Tokens, Wording, begins_with, ends_with

Tokenised = tuple[Tokens, tuple[Tokens, ...]]  # the prompt, the answers


def _causal(prompt: str, answers: Sequence[str], wording: Wording) -> Tokenised:
    """The prompt ends where the candidates differ, because a tokenizer may merge tokens across the boundary."""
    prompt += wording.prompt_suffix
    prompt_ids = token_ids(prompt, wording)
    whole = [token_ids(prompt + wording.label_prefix + answer, wording) for answer in answers]
    shared = _shared([prompt_ids, *whole])
    tokens = _with_special(prompt_ids[:shared], wording)
    if not tokens:
        raise InvalidTemplate(
            "the prompt has no token before the answer: add text to the template", param="task.template"
        )
    return tokens, _ended([ids[shared:] for ids in whole], answers, wording)


def _encoder_decoder(prompt: str, answers: Sequence[str], wording: Wording) -> Tokenised:
    candidates = [answer_ids(wording.label_prefix + answer, wording) for answer in answers]
    return _with_special(token_ids(prompt, wording), wording), _ended(candidates, answers, wording)


def _classifier(prompt: str, answers: Sequence[str], wording: Wording) -> Tokenised:
    candidates = tuple((wording.classes[answer],) for answer in answers)
    return _with_special(token_ids(prompt, wording), wording), candidates


TOKENISE: dict[Kind, Callable[[str, Sequence[str], Wording], Tokenised]] = {
    "causal": _causal,
    "encoder_decoder": _encoder_decoder,
    "classifier": _classifier,
    "decoder_classifier": _classifier,
    "encoder": _classifier,
    "token_classifier": _classifier,
}


def token_ids(text: str, wording: Wording) -> Tokens:
    """The tokens of a text, without special tokens. Raises InvalidModel for one that the model has no embedding of."""
    ids = tuple(wording.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    _check_known(ids, wording, wording.vocabulary)
    return ids


def token_ids_in_place(text: str, wording: Wording) -> tuple[Tokens, list[tuple[int, int]]]:
    """(the tokens of a text, for each the first character of the text that it stands for and the one after its last).

    Needs a fast tokenizer. Raises as `token_ids`.
    """
    encoded = wording.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = tuple(encoded["input_ids"])
    _check_known(ids, wording, wording.vocabulary)
    return ids, encoded["offset_mapping"]


def answer_ids(text: str, wording: Wording) -> Tokens:
    """The tokens of an answer of an encoder-decoder, without special tokens. Raises as `token_ids`."""
    told = {"text_target" if wording.own_target_tokens else "text": text}
    ids = tuple(wording.tokenizer(**told, add_special_tokens=False, verbose=False)["input_ids"])
    _check_known(ids, wording, wording.answer_vocabulary)
    return ids


def _check_known(ids: Tokens, wording: Wording, vocabulary: int) -> None:
    unknown = max(ids, default=0)
    if unknown >= vocabulary:
        raise InvalidModel(
            f"the tokenizer makes the token {unknown} ({wording.tokenizer.convert_ids_to_tokens(unknown)!r}), and the "
            f"model has embeddings of {vocabulary} tokens: give the tokenizer that belongs to the model",
            param="model.uri",
        )


def _with_special(ids: Tokens, wording: Wording) -> Tokens:
    """The tokens of a prompt with the special tokens around them, unless the prompt itself begins or ends with them."""
    before = () if begins_with(ids, wording.opening) else wording.opening
    after = () if ends_with(ids, wording.closing) else wording.closing
    _check_known(before + after, wording, wording.vocabulary)
    return before + ids + after


def _shared(sequences: Sequence[Tokens]) -> int:
    """Number of tokens at the start that all sequences have in common."""
    return next(
        (index for index, column in enumerate(zip(*sequences, strict=False)) if len(set(column)) > 1),
        min(map(len, sequences)),
    )


def _ended(candidates: Sequence[Tokens], answers: Sequence[str], wording: Wording) -> tuple[Tokens, ...]:
    """The candidates with the end token where they need it: generated texts, and labels of which one begins another.

    Without it the longer of two such labels could never have the higher probability. Other labels have no end token:
    they compete as they are. The texts of a chat come with their end.
    """
    closing = _closing(wording)
    if wording.task.kind is TaskKind.generation:
        _check_known(closing, wording, wording.answer_vocabulary)
        return tuple(candidate + closing for candidate in candidates) if wording.chat is None else tuple(candidates)
    pair = _beginning_of_another(candidates)
    if pair is None:
        return tuple(candidates)
    if not closing:
        shorter, longer = (answers[index] for index in pair)
        raise InvalidLabels(
            f"the tokens of the answer {shorter!r} begin those of {longer!r}, and the tokenizer has no end token to "
            "tell them apart: reword one",
            param="task.labels",
        )
    _check_known(closing, wording, wording.answer_vocabulary)
    return tuple(candidate + closing for candidate in candidates)


def _closing(wording: Wording) -> Tokens:
    """The tokens that end an answer; empty where there are none."""
    end: int | None = wording.tokenizer.eos_token_id
    if wording.chat is None:
        return () if end is None else (end,)
    before = token_ids("a", wording)  # some tokenizers put a space before a text
    return token_ids(f"a{wording.chat.ending}", wording)[len(before) :]


def _beginning_of_another(candidates: Sequence[Tokens]) -> tuple[int, int] | None:
    """(index of a candidate that begins another one, index of that one); None where there is none."""
    order = sorted(range(len(candidates)), key=lambda index: candidates[index])
    for shorter, longer in pairwise(order):  # in this order a candidate is followed by those that it begins
        start, whole = candidates[shorter], candidates[longer]
        if 0 < len(start) < len(whole) and begins_with(whole, start):
            return shorter, longer
    return None
