"""What the report warns of in the answers of the dense and the slim model, and in how they were judged.

Each check is a pure function from the report to a message or None.
"""

from service.contract.answers.report import Confusion, Report
from service.contract.answers.result import Metrics
from service.contract.options import METRICS, Collapse, Supervision, TaskKind, TaskMetric
from service.reports.formatting import difference, fixed, interval, percent
from service.reports.metric_names import metric_name

DAMAGE_SHARE = 0.7  # of the lost answers that are in one class
MIN_DAMAGE = 5  # lost answers; with fewer, their distribution over the classes is chance
NOTABLE_SHARE = 0.1  # of the answers
ONE_ANSWER_SHARE = 0.9  # of the rows that get the same answer
FREQUENT_LABEL_SHARE = 0.8  # of the rows with one label; above it, giving that answer often is right


def judged_by_dense(report: Report) -> str | None:
    """The evaluation rows have no labels."""
    if report.result.metrics.slim.judged_by is Supervision.labels:
        return None
    if report.result.metrics.slim.metric is TaskMetric.cosine_similarity:
        return (
            "The metric is the similarity of the slim model's embeddings to those of the dense model, not their use. "
            "Send evaluation rows with a second text, and the `task.metric` spearman where they have numbers, or "
            "recall_at_10 where the second text is the neighbour of the first."
        )
    return (
        "The evaluation rows have no labels: the metrics are agreement with the dense model, not accuracy. A slim "
        "model that repeats an error of the dense model counts as right. Send rows with labels to measure accuracy."
    )


def dense_fails(report: Report) -> str | None:
    """The dense model cannot do the task, so that the metrics do not show what was lost."""
    dense = report.result.metrics.dense
    if dense.metric in METRICS[TaskKind.generation] and dense.value.value == 0:
        return (
            f"The dense model writes none of the targets, so that the {metric_name(dense)} does not show what was "
            "lost: set `task.metric` to token_probability, or use the template and targets that the model was trained "
            "with."
        )
    if dense.constant is None or dense.value.low > dense.constant:
        return None
    parts = "the template and the numbers of the rows" if dense.majority is None else "the template and the label words"
    return f"The dense model is not better than a constant answer: {_beside_constant(dense)}. Check {parts}."


def at_majority(report: Report) -> str | None:
    """The slim model is not better than a constant answer."""
    slim = report.result.metrics.slim
    if slim.constant is None or slim.value.low > slim.constant:
        return None
    return f"The slim model is not better than a constant answer: {_beside_constant(slim)}. Remove less."


def _beside_constant(metrics: Metrics) -> str:
    """The metric, and that of the constant answer: the most frequent label, or of a regression any number."""
    constant = "the same number for all rows" if metrics.majority is None else "the most frequent label"
    if metrics.metric in (TaskMetric.cosine_similarity, TaskMetric.recall_at_10):
        constant = "the same embedding for all texts"
    name = metric_name(metrics)
    return f"its {name} is {interval(metrics.value)}, that of {constant} is {percent(metrics.constant or 0.0)}"


def offsets_mislead(report: Report) -> str | None:
    """The label offsets make the slim model's answers worse."""
    slim = report.result.metrics.slim
    if slim.raw is None or slim.raw.value <= slim.value.high:
        return None
    return (
        f"With its label offsets the slim model's {metric_name(slim)} is {interval(slim.value)}, without them "
        f"{percent(slim.raw.value)}: the labels are not as frequent among the calibration rows as among the evaluation "
        "rows. Send calibration rows that are drawn as the rows of the task are."
    )


def one_answer(report: Report) -> str | None:
    """The slim model gives nearly every row the same answer."""
    if report.confusion is None:
        return None
    answers = {label: sum(row[i] for row in report.confusion.slim) for i, label in enumerate(report.confusion.labels)}
    label, most = max(answers.items(), key=lambda item: item[1])
    total = sum(answers.values())
    labelled = sum(report.confusion.slim[report.confusion.labels.index(label)])
    if most < ONE_ANSWER_SHARE * total or labelled >= FREQUENT_LABEL_SHARE * total:
        return None
    return (
        f"The slim model answers {label!r} to {percent(most / total)} of the rows, but {percent(labelled / total)} "
        "have that label: it is biased towards that answer. Remove less, or send more calibration rows."
    )


def damage_in_one_class(report: Report) -> str | None:
    """Most of the lost answers are rows of one label."""
    if report.confusion is None:
        return None
    lost = _lost(report.confusion)
    label, worst = max(lost.items(), key=lambda item: item[1])
    total = sum(lost.values())
    if total < MIN_DAMAGE or worst < DAMAGE_SHARE * total or len(lost) < 2:
        return None
    return (
        f"Most of the loss is in one class: of {total} right answers that were lost, {worst} are rows with the label "
        f"{label!r}. The metric over all rows does not show this."
    )


def _lost(confusion: Confusion) -> dict[str, int]:
    """Label -> how many fewer of its rows the slim model answers rightly."""
    matrices = zip(confusion.labels, confusion.dense, confusion.slim, strict=True)
    return {label: max(0, dense[i] - slim[i]) for i, (label, dense, slim) in enumerate(matrices)}


def empty(report: Report) -> str | None:
    """The slim model gives more empty texts than the dense one."""
    slim, dense = report.result.metrics.slim.empty, report.result.metrics.dense.empty
    if slim is None or dense is None or slim < dense + NOTABLE_SHARE:
        return None
    return (
        f"The slim model's text is empty for {percent(slim)} of the rows, the dense model's for {percent(dense)}. "
        "Remove less."
    )


def repetition(report: Report) -> str | None:
    """The slim model repeats itself more often than the dense one."""
    slim, dense = report.result.metrics.slim.repetition, report.result.metrics.dense.repetition
    if slim is None or dense is None or slim < dense + NOTABLE_SHARE:
        return None
    return (
        f"The slim model repeats itself in {percent(slim)} of its answers, the dense model in {percent(dense)}. "
        "Remove less."
    )


def unresolved_loss(report: Report) -> str | None:
    """The interval is wider than the change of the metric."""
    dense, slim = report.result.metrics.dense.value, report.result.metrics.slim.value
    change, width = slim.value - dense.value, slim.high - slim.low
    if abs(change) >= width:
        return None
    return (
        f"The 95 % interval of the slim model's metric is {fixed(width * 100, 1)} points wide on "
        f"{report.result.metrics.slim.examples} evaluation rows, more than the change of {difference(change * 100)}: "
        "the loss is known only roughly. Send more evaluation rows for a narrower interval."
    )


COLLAPSES = {
    Collapse.one_label: "it gives nearly every row the same label",
    Collapse.empty: "most of its texts are empty",
    Collapse.repetition: "most of its texts repeat themselves",
}


def collapse(report: Report) -> str | None:
    """Some of the measured models gave answers that no longer depend on the rows."""
    collapsed = [point for point in report.result.curve if point.collapse is not None]
    if not collapsed:
        return None
    first = min(collapsed, key=lambda point: point.ratio)
    assert first.collapse is not None
    return (
        f"With {percent(first.ratio)} removed the model has collapsed ({COLLAPSES[first.collapse]}), although its "
        "metric may not show it. No model that has collapsed meets a floor under the metric."
    )
