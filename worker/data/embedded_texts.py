"""Turns the rows of an embedding task into the tokens of their texts, as sentence-transformers makes them.

White space around a text is left out, its end is cut behind the tokens that the model takes, and the special tokens of
the tokenizer are put around it.
"""

from collections.abc import Mapping, Sequence

from service.contract.errors import InvalidData
from service.contract.request.presets import LABEL_COLUMN, template_fields
from service.rows.row import Row
from service.rows.second_texts import OF_NUMBERS, have_second_texts, second_columns
from service.rows.words import first_words
from worker.data.examples import Example
from worker.data.prompts import ONLY_OUTPUT, number_text, render
from worker.data.tokenising import token_ids
from worker.data.wordings import Tokens, Wording


def encode(rows: Sequence[Row], wording: Wording, *, answered: bool, every_text: bool) -> tuple[list[Example], int]:
    """(examples of checked rows, number of texts that were cut to the tokens that the model takes).

    A row is one example with its second text, where rows have one; with `every_text` each text is an example. Rows that
    are not `answered` give examples without a number. Raises InvalidData for a text without tokens, InvalidModel.
    """
    columns = {column: column for column in template_fields(wording.task.template or "")}
    sides = [columns, *([second_columns(wording.task)] if have_second_texts(rows, wording.task) else [])]
    has_number = answered and wording.task.metric in OF_NUMBERS and not every_text
    num_cut, examples = 0, []
    for row in rows:
        texts = [_tokens(row, side, wording) for side in sides]
        num_cut += sum(is_cut for _, is_cut in texts)
        if every_text:
            examples += [_example(tokens) for tokens, _ in texts]
        else:
            number = row.number(LABEL_COLUMN) if has_number else None
            second = texts[1][0] if len(texts) > 1 else ()
            examples.append(_example(texts[0][0], second, number))
    return examples, num_cut


def _example(first: Tokens, second: Tokens = (), number: float | None = None) -> Example:
    text, target = ("", ()) if number is None else (number_text(number), (number,))
    return Example(first, (ONLY_OUTPUT,), 0, text, target=target, second=second)


def _tokens(row: Row, columns: Mapping[str, str], wording: Wording) -> tuple[Tokens, bool]:
    """(the tokens of one text of a row, whether it was cut); `columns`: column of the template -> column of the row."""
    words = {name: first_words(row.text(column), wording.task.max_words) for name, column in columns.items()}
    text = embedded_text(render(wording.task.template or "", words), wording)
    ids = token_ids(text, wording)
    frame = len(wording.opening) + len(wording.closing)
    most = len(ids) if wording.max_tokens is None else max(0, wording.max_tokens - frame)
    tokens = wording.opening + ids[:most] + wording.closing
    if not tokens:
        raise InvalidData(f"{row.position} has a text without tokens in {', '.join(sorted(columns.values()))}")
    return tokens, len(ids) > most


def embedded_text(text: str, wording: Wording) -> str:
    """The text that the tokenizer reads."""
    assert wording.sentence_encoder is not None
    return text.strip().lower() if wording.sentence_encoder.lower_case else text.strip()
