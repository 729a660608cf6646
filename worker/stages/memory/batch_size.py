"""Halves the batches of a stage that runs out of memory, and runs it again."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog
import torch

from service.contract.errors import OutOfMemory
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import EvaluationSet
from worker.stages.memory.exhaustion import is_exhaustion
from worker.stages.task_model import Examples, TaskModel, with_examples

ResultT = TypeVar("ResultT")
log = structlog.get_logger()


def halving(
    context: JobContext, sets: Sequence[EvaluationSet], stage: Callable[[Sequence[EvaluationSet]], ResultT]
) -> ResultT:
    """The result of a stage over the sets, which must leave models as they are.

    Where memory runs out, the job goes on with batches of half the tokens; the stages before keep what they have done.
    Raises OutOfMemory where every batch has one row.
    """
    while True:
        try:
            return stage(sets)
        except (MemoryError, OSError, RuntimeError) as error:
            if not is_exhaustion(error):
                raise
            if _all_alone(sets):
                raise OutOfMemory(
                    "the worker has no memory for one row at a time: send shorter rows, set `task.max_words`, or use a "
                    "device with more memory"
                ) from error
        _release()  # outside of the handler, since the error holds the tensors of the stage
        sets = _halved(context, sets)


def _halved(context: JobContext, sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """The sets in batches of half the tokens, which the context has from now on."""
    tokens = context.settings.tokens_per_batch // 2
    log.warning("out of memory: batches are halved", job_id=context.job.id, tokens_per_batch=tokens)
    context.settings = context.settings.model_copy(update={"tokens_per_batch": tokens})
    return [replace(each, task_model=_in_new_batches(context, each.task_model)) for each in sets]


def _in_new_batches(context: JobContext, task_model: TaskModel) -> TaskModel:
    def again(rows: Examples) -> Examples:
        return with_examples(context, task_model, rows, rows.examples)

    return replace(
        task_model,
        calibration=again(task_model.calibration),
        evaluation=again(task_model.evaluation),
        offset_rows=again(task_model.offset_rows) if task_model.offset_rows else None,
    )


def _all_alone(sets: Sequence[EvaluationSet]) -> bool:
    """Whether no batch of any set has more than one row."""
    rows = [rows for each in sets for rows in (each.task_model.calibration, each.task_model.evaluation)]
    return all(batch.num_examples <= 1 for each in rows for batch in each.batches)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
