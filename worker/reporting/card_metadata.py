"""The metadata of a model card, which the Hub reads: base model, licence and evaluation results."""

from collections.abc import Iterator, Mapping
from math import exp
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from service.contract.answers.report import Report
from service.contract.answers.result import Metrics, MetricsPair
from service.contract.options import Supervision, TaskMetric
from service.models.families.family import Kind
from service.models.families.table import FAMILIES, with_head
from service.reports.metric_names import capitalised, name_of, qualities
from service.reports.model_origin import last_part, root
from service.sources.access import HUB
from service.sources.model_files import CARD
from service.sources.readers import scheme_of

# Kind of family -> the Hub's name of the pipeline.
PIPELINES: dict[Kind, str] = {
    "causal": "text-generation",
    "encoder_decoder": "text2text-generation",
    "classifier": "text-classification",
    "decoder_classifier": "text-classification",
    "encoder": "sentence-similarity",
    "token_classifier": "token-classification",
}
# The Hub's ids of metrics that have another name there.
HUB_METRICS = {
    TaskMetric.macro_f1: "f1",
    TaskMetric.micro_f1: "f1",
    TaskMetric.entity_f1: "seqeval",
    TaskMetric.tag_accuracy: "accuracy",
    TaskMetric.matthews: "matthews_correlation",
    TaskMetric.pearson: "pearsonr",
    TaskMetric.spearman: "spearmanr",
    TaskMetric.token_f1: "f1",
    TaskMetric.rouge_l: "rouge",
    TaskMetric.recall_at_10: "recall",
}
LICENCE_FIELDS = ("license", "license_name", "license_link")
MAX_CARD_BYTES = 2**20


def metadata(report: Report, licence: Mapping[str, Any]) -> ModelCardData:
    """The metadata, `model-index` included; `licence` has the fields that `licence_of` gives."""
    is_on_hub = scheme_of(root(report).uri) == HUB
    return ModelCardData(
        base_model=base_model(report) if is_on_hub else None,
        base_model_relation="finetune" if is_on_hub else None,  # the Hub has no relation for pruned models
        library_name="sentence-transformers" if _kind(report) == "encoder" else "transformers",
        pipeline_tag=_pipeline(report),
        tags=["taskslim", "pruned", *(task.title for task in report.request.slimmed_for)],
        model_name=model_name(report),
        eval_results=list(_results(report)),
        **licence,
    )


def _pipeline(report: Report) -> str:
    """The Hub's name of the pipeline that the model is used in."""
    return PIPELINES[_kind(report)]


def _kind(report: Report) -> Kind:
    """The kind of the model."""
    return with_head(FAMILIES[report.family], report.model_class).kind


def licence_of(directory: Path) -> dict[str, str]:
    """The licence fields in the model card of a directory; empty without a card that can be read."""
    path = directory / CARD
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return {}
    try:
        data = metadata_load(path) or {}
    except (ValueError, YAMLError):  # the card of the incoming model is invalid, which is no error of the job
        return {}
    return {field: data[field] for field in LICENCE_FIELDS if isinstance(data.get(field), str)}


def model_name(report: Report) -> str:
    """`<base model>-<task>-slim`, with every character that the Hub does not allow replaced by `-`."""
    name = f"{last_part(base_model(report))}-{report.request.title}-slim"
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "._-") else "-" for character in name
    )


def base_model(report: Report) -> str:
    """The public name of the model that was slimmed first, by this job or an earlier one."""
    return public_name(root(report).uri.rstrip("/"))


def public_name(uri: str) -> str:
    """The Hub's id of a model, or the last part of another URI: the rest is private to the deployment."""
    return uri.removeprefix("hf://") if scheme_of(uri) == HUB else last_part(uri)


def other_evaluations(report: Report) -> list[tuple[str, MetricsPair]]:
    """(name, metrics) of the tasks of a union, of further rows, of general rows and of observed tasks."""
    metrics = report.result.metrics
    named = report.request.general
    general = [(named.title, metrics.general)] if named and metrics.general else []
    return [*metrics.tasks.items(), *metrics.evaluations.items(), *general, *metrics.observed.items()]


def _results(report: Report) -> Iterator[EvalResult]:
    """The slim model's metrics on the task, then on the other evaluations."""
    for title, pair in [(report.request.title, report.result.metrics), *other_evaluations(report)]:
        for metric, name, value in _metrics(pair.slim):
            yield EvalResult(
                task_type=_pipeline(report),
                dataset_type=title,
                dataset_name=f"evaluation rows of {title}",
                metric_type=metric,
                metric_name=capitalised(name),
                metric_value=round(value, 4),
            )


def _metrics(metrics: Metrics) -> Iterator[tuple[str, str, float]]:
    """(id, name, value) of each metric of a model."""
    for name, estimate in qualities(metrics):
        yield _hub_metric(metrics), name, estimate.value
    if metrics.token_log_likelihood is not None and metrics.metric is not TaskMetric.token_probability:
        yield "token_probability", name_of(metrics, TaskMetric.token_probability), exp(metrics.token_log_likelihood)


def _hub_metric(metrics: Metrics) -> str:
    """The Hub's id of a metric. Agreement with the dense model has none, and must not get that of accuracy."""
    if metrics.judged_by is Supervision.none:
        return "agreement"
    return "mean" if metrics.metric is None else HUB_METRICS.get(metrics.metric, metrics.metric.value)
