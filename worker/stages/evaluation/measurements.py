"""The measurements of a model on the evaluation sets of a job, with the label offsets that are shipped with it.

The dense and the slim model have their own offsets for each task, fitted on calibration rows. Further rows are judged
with the offsets of their task. Observed tasks have no calibration rows, and are judged without offsets. Where the dense
model's own answers stand for labels, its offsets are zero: they would change its answers to the rows that it labelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from worker.evaluation.answers import Answers
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, Role, SetKey, having_role, own
from worker.stages.task_model import Measured, TaskModel, fitted, measured, on_rows_of_offsets


class RowsKey(NamedTuple):
    """Identifies rows that a model answers: those of an evaluation set, or those that its offsets are fitted on."""

    set: SetKey
    to_fit: bool


AnswerAll = Callable[[Mapping[RowsKey, TaskModel]], Mapping[RowsKey, Answers]]


def measure_dense(sets: Sequence[EvaluationSet], answer_all: AnswerAll) -> dict[SetKey, Measured]:
    """The dense model on every evaluation set; `answer_all` gives its answers without label offsets."""
    return _measure(sets, labelled(sets), answer_all)


def measure_slim(sets: Sequence[EvaluationSet], answer_all: AnswerAll) -> dict[SetKey, Measured]:
    """The slim model on every evaluation set; `answer_all` gives its answers without label offsets."""
    return _measure(sets, having_role(sets, *SLIMMED_FOR), answer_all)


def shipped_tasks(sets: Sequence[EvaluationSet], slim: Mapping[SetKey, Measured]) -> list[TaskModel]:
    """The slim model with each task that it was slimmed for, and the label offsets that are shipped."""
    tasks = having_role(sets, *SLIMMED_FOR)
    return [replace(each.task_model, offset_L=slim[each.key].answers.offset_L) for each in tasks]


def to_answer(sets: Sequence[EvaluationSet], with_offsets: Sequence[EvaluationSet]) -> dict[RowsKey, TaskModel]:
    """The rows that a measurement has answered: those of every set, and those that offsets are fitted on."""
    fitting = {each.key: on_rows_of_offsets(each.task_model) for each in with_offsets}
    models = {RowsKey(key, True): model for key, model in fitting.items() if model is not None}
    return {RowsKey(each.key, False): each.task_model for each in sets} | models


def labelled(sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """The sets that offsets of the dense model are fitted for: where its own answers do not stand for labels."""
    return [each for each in having_role(sets, *SLIMMED_FOR) if each.task_model.own_answers is None]


def _measure(
    sets: Sequence[EvaluationSet], with_offsets: Sequence[EvaluationSet], answer_all: AnswerAll
) -> dict[SetKey, Measured]:
    answers = answer_all(to_answer(sets, with_offsets))
    offsets = {key.set: fitted(found) for key, found in answers.items() if key.to_fit}

    def measure(each: EvaluationSet) -> Measured:
        found = answers[RowsKey(each.key, False)]
        return measured(each.task_model, replace(found, offset_L=_offset_of(each, sets, offsets)))

    return {each.key: measure(each) for each in sets}


def _offset_of(
    evaluation_set: EvaluationSet, sets: Sequence[EvaluationSet], offsets: Mapping[SetKey, Tensor]
) -> Tensor | None:
    """The label offsets of a set: its own, or for further rows those of their task."""
    is_further = evaluation_set.role is Role.further_rows
    return offsets.get(own(sets).key if is_further else evaluation_set.key)
