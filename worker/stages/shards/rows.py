"""How the rows of a job are divided among its shards: in spans of about equally many tokens, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from worker.data.examples import Example
from worker.stages.context import JobContext
from worker.stages.task_model import Examples, TaskModel, with_examples


@dataclass(frozen=True)
class Shard:
    """One of the shards of a job; the first has the number 0."""

    number: int
    of: int


def spans(examples: Sequence[Example], of: int) -> list[range]:
    """The places of the examples of each shard. A row belongs to the shard in whose share its middle token lies, so
    that a shard beside a very long row may have none."""
    sizes = [_tokens(example) for example in examples]
    total = sum(sizes)
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    owners = [min(of - 1, int(middle * of / total)) for middle in middles]
    starts = [sum(owner < number for owner in owners) for number in range(of + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


def _tokens(example: Example) -> int:
    """Tokens that the model reads for an example, at least one."""
    return max(1, len(example.prompt) + len(example.second) + sum(len(each) for each in example.candidates))


def part_of(context: JobContext, task_model: TaskModel, rows: Examples, shard: Shard) -> Examples | None:
    """The rows of one shard in batches of their own; None where it has none."""
    span = spans(rows.examples, shard.of)[shard.number]
    if not span:
        return None
    return with_examples(context, task_model, rows, [rows.examples[place] for place in span])


def evaluating(context: JobContext, task_model: TaskModel, shard: Shard) -> TaskModel | None:
    """The model with the shard's part of its evaluation rows; None where it has none."""
    rows = part_of(context, task_model, task_model.evaluation, shard)
    if rows is None:
        return None
    how = task_model.decoding
    if how is not None:  # the longest right text of all rows decides how long the generated texts may be
        first = replace(rows.examples[0], other_tokens=how.max_new_tokens)
        rows = replace(rows, examples=[first, *rows.examples[1:]])
    return replace(task_model, evaluation=rows)


def calibrating(context: JobContext, task_model: TaskModel, shard: Shard) -> TaskModel | None:
    """The model with the shard's part of its calibration rows; None where it has none."""
    rows = part_of(context, task_model, task_model.calibration, shard)
    return None if rows is None else replace(task_model, calibration=rows)
