"""The names of the metrics, which differ for rows without labels: these are judged by the dense model's answers.

The names start with a lower-case letter, unless it is part of a name.
"""

from collections.abc import Iterator

from service.contract.answers.result import Estimate, Metrics
from service.contract.options import METRICS, Supervision, TaskKind, TaskMetric

LABELLED = {
    TaskMetric.accuracy: "accuracy",
    TaskMetric.balanced_accuracy: "balanced accuracy",
    TaskMetric.macro_f1: "macro F1 score",
    TaskMetric.micro_f1: "micro F1 score",
    TaskMetric.matthews: "Matthews correlation",
    TaskMetric.entity_f1: "F1 score of entities",
    TaskMetric.tag_accuracy: "accuracy of tags",
    TaskMetric.pearson: "Pearson correlation",
    TaskMetric.spearman: "Spearman correlation",
    TaskMetric.exact_match: "exact match",
    TaskMetric.token_f1: "F1 score of words",
    TaskMetric.rouge_l: "ROUGE-L score",
    TaskMetric.chrf: "chrF score",
    TaskMetric.token_probability: "probability of a token",
    TaskMetric.cosine_similarity: "cosine similarity to the dense model's embeddings",
    TaskMetric.recall_at_10: "recall at 10",
}
UNLABELLED = {name: f"{text} with the dense model's answers as right ones" for name, text in LABELLED.items()} | {
    TaskMetric.accuracy: "agreement with the dense model",
    TaskMetric.tag_accuracy: "tags equal to the dense model's",
    TaskMetric.pearson: "Pearson correlation with the dense model's outputs",
    TaskMetric.spearman: "Spearman correlation with the dense model's outputs",
    TaskMetric.exact_match: "texts equal to the dense model's",
    TaskMetric.token_probability: "probability of a token of the dense model's text",
    TaskMetric.cosine_similarity: LABELLED[TaskMetric.cosine_similarity],
}
NAMES = {Supervision.labels: LABELLED, Supervision.none: UNLABELLED}
SEVERAL = "mean of the tasks' metrics"


def metric_name(metrics: Metrics) -> str:
    """The name of the metric of `metrics`."""
    return SEVERAL if metrics.metric is None else name_of(metrics, metrics.metric)


def name_of(metrics: Metrics, metric: TaskMetric) -> str:
    """The name of a metric of the rows that `metrics` are of."""
    return NAMES[metrics.judged_by][metric]


def qualities(metrics: Metrics) -> Iterator[tuple[str, Estimate]]:
    """(name, value) of the metric of what ships, and of the same metric without label offsets."""
    yield metric_name(metrics), metrics.value
    if metrics.raw is not None:
        yield f"raw {metric_name(metrics)}", metrics.raw


def share_of_most_frequent(metrics: Metrics) -> str:
    """What `majority` is the share of, as it follows the number: of rows, or of the words of tagged rows."""
    is_tagged = metrics.metric in METRICS[TaskKind.token_classification]
    return "of the words with the most frequent tag" if is_tagged else "with the most frequent label"


def capitalised(name: str) -> str:
    """The name with an upper-case first letter; the rest is unchanged."""
    return name[:1].upper() + name[1:]
