"""The figures and the answers of several tasks put together, as a union reports them."""

from collections.abc import Mapping, Sequence
from math import exp, hypot
from statistics import fmean

from service.contract.answers.report import ChangedAnswer, Confusion
from service.contract.answers.result import Estimate, Metrics
from worker.evaluation.judging import SHARES, wilson

# The confusion matrices of both models, which a generation task has none of, and the answers that changed.
ComparedAnswers = tuple[Confusion | None, list[ChangedAnswer]]


def pooled_metrics(metrics: Sequence[Metrics]) -> Metrics:
    """The metrics over the rows of all tasks. Those of a single task are returned as they are."""
    if len(metrics) == 1:
        return metrics[0]
    [metric] = names if len(names := {each.metric for each in metrics}) == 1 else [None]
    pooled = _pooled_share if metric in SHARES else _mean_estimate
    value = pooled([(each.value, each.examples) for each in metrics])
    assert value is not None
    likelihood = _weighted_mean([(each.token_log_likelihood, each.examples) for each in metrics])
    return Metrics(
        examples=sum(each.examples for each in metrics),
        metric=metric,
        value=value,
        raw=pooled([(each.raw, each.examples) for each in metrics]),
        constant=_mean([each.constant for each in metrics])
        if metric not in SHARES
        else _weighted_mean([(each.constant, each.examples) for each in metrics]),
        majority=_weighted_mean([(each.majority, each.examples) for each in metrics]),
        log_likelihood=_weighted_mean([(each.log_likelihood, each.examples) for each in metrics]),
        token_log_likelihood=likelihood,
        perplexity=None if likelihood is None else exp(-likelihood),
        mean_squared_error=_weighted_mean([(each.mean_squared_error, each.examples) for each in metrics]),
        empty=_weighted_mean([(each.empty, each.examples) for each in metrics]),
        repetition=_weighted_mean([(each.repetition, each.examples) for each in metrics]),
    )


def pooled_answers(compared: Mapping[str, ComparedAnswers]) -> ComparedAnswers:
    """The compared answers of all tasks, given by title. Those of a single task are returned as they are.

    The confusion matrices are the blocks of one matrix; labels and changed answers carry the title of their task.
    """
    if len(compared) == 1:
        [alone] = compared.values()
        return alone
    titled = [_titled(title, *answers) for title, answers in compared.items()]
    matrices = [confusion for confusion, _ in titled if confusion is not None]
    changed = [row for _, rows in titled for row in rows]
    if not matrices:
        return None, changed
    labels = [label for matrix in matrices for label in matrix.labels]
    dense, slim = (_block_diagonal([getattr(matrix, model) for matrix in matrices]) for model in ("dense", "slim"))
    return Confusion(labels=labels, dense=dense, slim=slim), changed


def _titled(title: str, confusion: Confusion | None, changed: Sequence[ChangedAnswer]) -> ComparedAnswers:
    if confusion is not None:
        confusion = confusion.model_copy(update={"labels": [f"{title}: {label}" for label in confusion.labels]})
    return confusion, [row.model_copy(update={"task": title}) for row in changed]


def _block_diagonal(matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    """One square matrix with the given ones along its diagonal and zeros elsewhere."""
    size, rows, before = sum(map(len, matrices)), [], 0
    for matrix in matrices:
        after = size - before - len(matrix)
        rows += [[0] * before + row + [0] * after for row in matrix]
        before += len(matrix)
    return rows


def _pooled_share(estimates: Sequence[tuple[Estimate | None, int]]) -> Estimate | None:
    """The share of right answers over the rows of all (estimate, number of rows), with its interval."""
    known = [(estimate.value, examples) for estimate, examples in estimates if estimate is not None]
    if not known:
        return None
    return wilson(sum(round(value * examples) for value, examples in known), sum(examples for _, examples in known))


def _mean_estimate(estimates: Sequence[tuple[Estimate | None, int]]) -> Estimate | None:
    """The mean of the tasks' metrics. Their rows are independent, so that the squares of the half widths add up."""
    known = [estimate for estimate, _ in estimates if estimate is not None]
    if not known:
        return None
    value = fmean(estimate.value for estimate in known)
    below, above = (
        hypot(*(getattr(estimate, end) - estimate.value for estimate in known)) / len(known) for end in ("low", "high")
    )
    return Estimate(value=value, low=value - below, high=value + above)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _weighted_mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean over the rows of all (mean, number of rows)."""
    known = [(value, examples) for value, examples in values if value is not None]
    return sum(value * examples for value, examples in known) / sum(n for _, n in known) if known else None
