"""Turns the rows of a task of any kind into examples, the tokens that a model reads and answers."""

from collections.abc import Sequence

from service.contract.options import TaskKind
from service.rows.row import Row
from worker.data import embedded_texts, plain_texts, prompts, tagged_texts
from worker.data.examples import Example
from worker.data.wordings import Wording


def encode(
    rows: Sequence[Row], wording: Wording, *, answered: bool = True, is_calibration: bool = False
) -> tuple[list[Example], int]:
    """(examples of checked rows, number of texts that were shortened to the tokens that the model takes).

    Of calibration rows every answer of a conversation and every text of an embedding is an example. Rows that are not
    `answered` give examples without an answer. Raises InvalidData, InvalidLabels, InvalidTemplate, InvalidModel.
    """
    if wording.task.kind is TaskKind.embedding:
        return embedded_texts.encode(rows, wording, answered=answered, every_text=is_calibration)
    if wording.task.kind is TaskKind.language_modelling:
        return plain_texts.encode(rows, wording)
    if wording.task.kind is TaskKind.token_classification:
        return tagged_texts.encode(rows, wording, answered=answered)
    return prompts.encode(rows, wording, answered=answered, every_answer=is_calibration)
