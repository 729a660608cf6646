"""Rows of words with a tag for each, as tokens of a model with a head for tokens.

The words are joined by spaces and read as one text, as a pipeline reads it. A word has the tag of its first token; the
model's answers at its other tokens are not used. A word of which the tokenizer makes no token has no answer, and is not
judged.
"""

from collections.abc import Sequence

from service.contract.errors import InvalidModel
from service.contract.options import TaskKind
from service.contract.request.presets import ANSWER_COLUMNS, WORDS_COLUMN
from service.rows.row import Row
from worker.data.examples import Example
from worker.data.tokenising import token_ids_in_place
from worker.data.wordings import Tokens, Wording

TAGS_COLUMN = ANSWER_COLUMNS[TaskKind.token_classification]


def encode(rows: Sequence[Row], wording: Wording, *, answered: bool = True) -> tuple[list[Example], int]:
    """(examples of checked rows, number of rows whose last words were cut because the model does not take them).

    Rows that are not `answered` have the first tag in place of each right one. Raises InvalidModel for a tokenizer that
    does not tell where its tokens are in a text.
    """
    if not wording.tokenizer.is_fast:
        message = (
            "the tokenizer of the model does not tell which word a token belongs to: add the `tokenizer.json` of a "
            "fast tokenizer"
        )
        raise InvalidModel(message, param="model.uri")
    pairs = [_example(row, wording, answered=answered) for row in rows]
    return [example for example, _ in pairs], sum(is_cut for _, is_cut in pairs)


def tags_text(tags: Sequence[int], names: Sequence[str]) -> str:
    """The tags of a row as one text."""
    return " ".join(names[tag] for tag in tags)


def _example(row: Row, wording: Wording, *, answered: bool) -> tuple[Example, bool]:
    """(the example of a row, whether it was cut)."""
    names, labels = tuple(wording.words.values()), list(wording.words)
    right = [labels.index(tag) for tag in row.texts(TAGS_COLUMN)] if answered else [0] * len(row.texts(WORDS_COLUMN))
    ids, places = words_in_place(row.texts(WORDS_COLUMN), wording)
    room = len(ids) if wording.max_tokens is None else wording.max_tokens - len(wording.opening) - len(wording.closing)
    kept = [word for word, place in enumerate(places) if place is not None and _end(word, places, ids) <= room]
    tags = tuple(right[word] for word in kept)
    example = Example(
        prompt=wording.opening + ids[:room] + wording.closing,
        candidates=tuple((wording.classes[name],) for name in names),
        answer=0,
        text=tags_text(tags, names) if answered else "",
        words=tuple(len(wording.opening) + (places[word] or 0) for word in kept),
        tags=tags,
        tag_names=names,
    )
    return example, room < len(ids)


def words_in_place(words: Sequence[str], wording: Wording) -> tuple[Tokens, list[int | None]]:
    """(tokens of the words as one text, for each word the place of its first token; None where it has none)."""
    ids, spans = token_ids_in_place(" ".join(words), wording)
    places: list[int | None] = []
    start = token = 0
    for word in words:
        while token < len(spans) and spans[token][0] < start - 1:  # of a word before
            token += 1
        end = start + len(word)
        places.append(token if token < len(spans) and spans[token][0] < end else None)
        start = end + 1
    return ids, places


def _end(word: int, places: Sequence[int | None], ids: Tokens) -> int:
    """The place after the last token of a word."""
    return next((place for place in places[word + 1 :] if place is not None), len(ids))
