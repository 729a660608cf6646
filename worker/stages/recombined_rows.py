"""Adds recombined rows to the calibration rows of a task that has few, with the dense model's answers as their labels.

The label offsets are fitted on the rows that came in, since a recombined row has no right answer.
"""

from collections.abc import Sequence
from dataclasses import replace

from service.contract.presets import template_fields
from service.contract.rows import Row
from worker.data import batching, prompts
from worker.data.recombination import recombined
from worker.stages.context import JobContext
from worker.stages.evaluation_sets import SLIMMED_FOR, EvaluationSet, RequestedRows
from worker.stages.pseudo_labels import Answer, answer
from worker.stages.task_model import Examples, TaskModel, with_examples


def add(
    context: JobContext, sets: Sequence[EvaluationSet], requested: Sequence[RequestedRows], ask: Answer
) -> list[EvaluationSet]:
    """The sets with at least `method.least_rows` calibration rows for each classification task.

    `requested` has the rows that each set was built from, in the same order. `ask` gives the dense model's answers.
    """
    return [
        replace(each, task_model=_completed(context, each.task_model, rows.calibration, ask))
        if each.role in SLIMMED_FOR
        else each
        for each, rows in zip(sets, requested, strict=True)
    ]


def _completed(context: JobContext, task_model: TaskModel, rows: Sequence[Row], ask: Answer) -> TaskModel:
    known, columns = task_model.calibration, sorted(template_fields(task_model.wording.task.template or ""))
    lacking = context.job.request.method.least_rows - len(known.examples)
    if task_model.generates or lacking <= 0 or len(rows) < 2 or not columns:
        return task_model
    labelled = answer(context, task_model, _encoded(context, task_model, recombined(rows, columns, lacking)), ask)
    calibration = with_examples(context, task_model, known, [*known.examples, *labelled.examples])
    return replace(task_model, calibration=replace(calibration, recombined=lacking))


def _encoded(context: JobContext, task_model: TaskModel, rows: Sequence[Row]) -> Examples:
    """Rows without answers, in tokens."""
    examples, shortened = prompts.encode(rows, task_model.wording, answered=False)
    batches = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)
    return Examples(examples, batches, shortened, answered=False)
