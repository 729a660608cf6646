"""The benchmark's tasks of other kinds than one label for a text: their wordings, and the columns of their rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.rows.row import Row

PAIR = "{text}[SEP]{text_b}"  # as the tokenizer of BERT joins two texts
# Task -> the fields of `task` in a request.
WORDINGS: dict[str, dict[str, Any]] = {
    "snips_slots": {"kind": "token_classification"},
    "stsb": {"kind": "regression", "template": PAIR},
    "goemotions": {"kind": "multi_label", "template": "{text}"},
    "snips_frames": {"kind": "generation", "template": "Request: {text}\nFrame:", "metric": "token_f1"},
    "e2e_nlg": {"kind": "generation", "template": "Restaurant: {text}\nDescription:", "metric": "rouge_l"},
    "chat_intent": {"kind": "generation", "messages": "messages"},
}
# The same of a sentence encoder.
EMBEDDED: dict[str, dict[str, Any]] = {"stsb": {"kind": "embedding", "metric": "spearman"}}
# Task -> column of its rows -> the name that the product reads it by. The first that a row has is taken.
COLUMNS: dict[str, dict[str, str]] = {
    "stsb": {"score": "label"},
    "goemotions": {"labels": "label"},
    "e2e_nlg": {"references": "target"},
}


def as_read(task: str, rows: Sequence[Row]) -> list[Row]:
    """The rows with their columns as the product names them."""
    names = COLUMNS.get(task, {})
    return [
        replace(
            row,
            values=row.values | {name: row.values[column] for column, name in names.items() if column in row.values},
        )
        for row in rows
    ]
