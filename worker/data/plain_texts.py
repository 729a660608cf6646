"""Turns the rows of a language modelling task into the tokens of their texts.

The first token is read, each of the others is scored after all tokens before it. Where the tokenizer begins a text with
a special token, this is the first one. The end of a long text is cut.
"""

from collections.abc import Sequence

from service.contract.errors import InvalidData
from service.contract.request.presets import template_fields
from service.rows.row import Row
from service.rows.words import first_words
from worker.data.examples import Example
from worker.data.prompts import render
from worker.data.tokenising import token_ids
from worker.data.wordings import Wording

MAX_TEXT_TOKENS = 512  # of one text: scores and sums count every token, and one long text must not outweigh the others


def encode(rows: Sequence[Row], wording: Wording) -> tuple[list[Example], int]:
    """(examples of checked rows, number of texts that were cut).

    Raises InvalidData for a text of fewer than two tokens, InvalidModel.
    """
    examples, num_cut = [], 0
    for row in rows:
        example, is_cut = _example(row, wording)
        examples.append(example)
        num_cut += is_cut
    return examples, num_cut


def _example(row: Row, wording: Wording) -> tuple[Example, bool]:
    template = wording.task.template or ""
    words = {name: first_words(row.text(name), wording.task.max_words) for name in template_fields(template)}
    text = render(template, words)
    tokens = wording.opening + token_ids(text, wording)
    most = min(MAX_TEXT_TOKENS, wording.max_tokens or MAX_TEXT_TOKENS)
    if len(tokens) < 2:
        raise InvalidData(
            f"{row.position} has a text of {len(tokens)} tokens, none of which follows another: leave it out"
        )
    return Example(tokens[:1], (tokens[1:most],), 0, text), len(tokens) > most
