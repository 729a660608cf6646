"""The model card: README.md in the checkpoint, in the Hub's format, so that it can be pushed to a hub as it is."""

from collections.abc import Iterator, Mapping
from math import exp, log
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from service.contract.criteria import CRITERIA
from service.contract.families import FAMILIES
from service.contract.options import Supervision, TaskKind
from service.contract.per_layer import MODELLING_FILE, has_own_widths
from service.contract.report import Report
from service.contract.result import CurvePoint, DenseSlim, Estimate, JobMetrics, Metrics, MetricsPair
from service.reports.formatting import change, count, interval, percent
from service.reports.metric_names import SHARES, headline_name, name_of, qualities
from service.reports.model_origin import merged_adapters, root_uri
from service.sources.model_files import CARD
from service.sources.readers import scheme_of

PIPELINES = {
    "causal": "text-generation",
    "encoder_decoder": "text2text-generation",
    "classifier": "text-classification",
}

LICENCE_FIELDS = ("license", "license_name", "license_link")
MAX_CARD_BYTES = 2**20

STOCK_CLASS = "It is an ordinary checkpoint; nothing beside the stock class is needed."
OWN_CLASS = f"Its layers have widths of their own: the class that holds them is in `{MODELLING_FILE}`."

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

{{ origin }}, slimmed for {{ purpose }}: {{ removed }} of its {{ units }} parameters are cut out, which leaves
{{ slim }} of {{ dense }} parameters ({{ change }}). {{ needs }}
What the task does not use was removed: expect other abilities of the base model to be gone.

## Use

```python
{{ snippet }}
```

## Task

{% for task in tasks %}
{{ task.name }}{{ task.kind }}{% if task.labels %}, with the answers {{ task.labels }}{% endif %}.
The prompt was exactly this, so use it exactly:

~~~~text
{{ task.template }}
~~~~
{% endfor %}

## Evaluation

On {{ examples }} rows that were not used to choose what is removed{% if majority %}; the most frequent {{ answer }} has
{{ majority }} of them{% endif %}.{% if unlabelled %} They have no labels: the figures say how often
the slim model answers as the dense one, not how often it is right.{% endif %} Intervals are 95 %.

| | dense | slim |
| --- | --- | --- |
{%- for row in figures %}
| {{ row }} |
{%- endfor %}
{% if others %}
Measured beside it:

| | dense | slim |
| --- | --- | --- |
{%- for row in others %}
| {{ row }} |
{%- endfor %}
{% endif %}
{% if warnings %}
## Before you rely on it
{% for warning in warnings %}
- {{ warning }}
{%- endfor %}
{% endif %}
## Method

Every unit was scored on {{ calibration }} examples of the task by the criterion `{{ criterion }}`{% if source %}
({{ source }}){% endif %}, and those with the lowest scores were removed: ranked by the scope `{{ method.scope }}`,
{{ "in one step" if method.steps == 1 else "in %d steps" | format(method.steps) }}, with the layout
`{{ layout }}`. {% if method.repair == "none" %}The weights that stay are untouched.{% else %}What stays was fitted to
what went by the repair `{{ method.repair }}`, without training.{% endif %}
Options: {{ options }}. Made by Taskslim {{ version }}, job {{ job }}. The licence is that of the base
model{% if licence %}, {{ licence }}{% endif %}.
"""


def card(report: Report, licence: Mapping[str, Any] = {}, point: CurvePoint | None = None) -> str:
    """README.md for the checkpoint of a report: metadata with `model-index`, then what a user must know.

    `licence` is what `licence_of` finds of the model that came in; `point` makes it the card of another checkpoint of
    the report's sweep.
    """
    report = report if point is None else _of_point(report, point)
    words = _words(report) | {"licence": licence.get("license_name") or licence.get("license", "")}
    made = ModelCard.from_template(_metadata(report, licence), template_str=TEMPLATE, **words)
    return str(made)


def _of_point(report: Report, point: CurvePoint) -> Report:
    """The report as far as it holds of another checkpoint of its sweep: its size, and the metric that judged it."""
    result, place = report.result, point.artifact or ""
    dense, slim = (dict[str, Any](dict.fromkeys(SHARES)) for _ in range(2))
    if calibrated := result.metrics.dense.calibrated_accuracy:
        dense["calibrated_accuracy"], slim["calibrated_accuracy"] = calibrated, point.metric
    elif point.metric:
        slim["token_log_likelihood"] = log(point.metric.value) if point.metric.value else None  # too small for a float
    metrics = JobMetrics(
        dense=result.metrics.dense.model_copy(update=dense), slim=result.metrics.slim.model_copy(update=slim)
    )
    parameters = DenseSlim(dense=result.parameters.dense, slim=point.parameters)
    changed = {"ratio": point.ratio, "parameters": parameters, "metrics": metrics, "curve": [point]}
    found = result.model_copy(update=changed)
    snippet = report.snippet.replace('from_pretrained("model"', f'from_pretrained("{place}"')
    return report.model_copy(update={"result": found, "snippet": snippet, "warnings": []})


def licence_of(directory: Path) -> dict[str, str]:
    """What the card of a model says of its licence, as the Hub's fields; empty where it says nothing readable."""
    path = directory / CARD
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return {}
    try:
        data = metadata_load(path) or {}
    except (ValueError, YAMLError):  # a card of strangers, and no reason to fail
        return {}
    return {field: data[field] for field in LICENCE_FIELDS if isinstance(data.get(field), str)}


def model_name(report: Report) -> str:
    """`<base model>-<task>-slim`, in characters that a hub allows."""
    name = f"{_base(report).rsplit('/', 1)[-1]}-{report.request.title}-slim"
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "._-") else "-" for character in name
    )


def _metadata(report: Report, licence: Mapping[str, Any]) -> ModelCardData:
    is_hub = scheme_of(root_uri(report)) == "hf"
    return ModelCardData(
        base_model=_base(report) if is_hub else None,
        base_model_relation="finetune" if is_hub else None,  # the Hub has no word for a cut one
        library_name="transformers",
        pipeline_tag=PIPELINES[FAMILIES[report.family].kind],
        tags=["taskslim", "pruned", *(task.title for task in report.request.slimmed_for)],
        model_name=model_name(report),
        eval_results=list(_results(report)),
        **licence,
    )


def _results(report: Report) -> Iterator[EvalResult]:
    """The slim model's figures on the task, then on what was measured beside it."""
    for title, pair in [(report.request.title, report.result.metrics), *_others(report)]:
        figures = [
            (_hub_metric(pair.slim, field), name, estimate.value) for field, name, estimate in qualities(pair.slim)
        ]
        if pair.slim.token_log_likelihood is not None:
            likely = exp(pair.slim.token_log_likelihood)
            figures.append(("token_probability", name_of(pair.slim, "token_probability"), likely))
        for metric, name, value in figures:
            yield EvalResult(
                task_type=PIPELINES[FAMILIES[report.family].kind],
                dataset_type=title,
                dataset_name=f"evaluation rows of {title}",
                metric_type=metric,
                metric_name=_capital(name),
                metric_value=round(value, 4),
            )


def _others(report: Report) -> list[tuple[str, MetricsPair]]:
    """(name, figures) of further rows and tasks."""
    metrics = report.result.metrics
    return [*metrics.tasks.items(), *metrics.evaluations.items(), *metrics.observed.items()]


def _hub_metric(metrics: Metrics, field: str) -> str:
    """The Hub's id of a figure; it has none for agreement, which must not be taken for one of its own."""
    return "agreement" if metrics.judged_by is Supervision.none else field.removeprefix("calibrated_")


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _words(report: Report) -> dict[str, Any]:
    result = report.result
    slim, parameters = result.metrics.slim, result.parameters
    return {
        "name": model_name(report),
        "origin": _origin(report),
        "purpose": f"{len(report.tasks)} tasks" if report.tasks else "one task",
        "removed": percent(result.ratio),
        "units": " and ".join(report.request.method.units),
        "slim": count(parameters.slim),
        "dense": count(parameters.dense),
        "change": change((parameters.dense, parameters.slim)),
        "snippet": report.snippet.strip(),
        "needs": OWN_CLASS if has_own_widths(result) else STOCK_CLASS,
        "tasks": [_wording(f"{name}: ", task) for name, task in report.tasks.items()] or [_wording("", report.task)],
        "examples": slim.examples,
        "unlabelled": slim.judged_by is Supervision.none,
        "answer": "answer" if slim.judged_by is Supervision.none else "label",
        "majority": percent(slim.majority) if slim.majority is not None else "",
        "figures": list(_figures(report)),
        "others": [
            f"{_cell(title)}: {headline_name(pair.slim)} | {interval(before)} | {interval(now)}"
            for title, pair in _others(report)
            if (before := pair.dense.headline) and (now := pair.slim.headline)
        ],
        "warnings": [warning.message for warning in report.warnings],
        "criterion": report.request.method.criterion.value,
        "source": CRITERIA[report.request.method.criterion].source,
        "method": report.request.method,
        "layout": report.request.output.layout.value,
        "calibration": report.calibration_examples,
        "options": ", ".join(f"{name} {value}" for name, value in report.options.items()),
        "version": report.versions.get("taskslim", ""),
        "job": report.job_id,
    }


def _figures(report: Report) -> Iterator[str]:
    """A row for each figure of both models on the task: name, dense, slim."""
    dense, slim = report.result.metrics.dense, report.result.metrics.slim
    for (_, name, before), (_, _, now) in zip(qualities(dense), qualities(slim), strict=True):
        yield f"{_capital(name)} | {interval(before)} | {interval(now)}"
    if dense.token_log_likelihood is not None and slim.token_log_likelihood is not None:
        measured = _on_these_rows(report)
        likely = interval(measured) if measured else percent(exp(slim.token_log_likelihood))
        yield f"{_capital(name_of(slim, 'token_probability'))} | {percent(exp(dense.token_log_likelihood))} | {likely}"


def _on_these_rows(report: Report) -> Estimate | None:
    """What the curve has of the slim model: in a sweep it is judged by the rows of the card, in a search by others."""
    if report.request.target.sweep is None:
        return None
    size = report.result.parameters.slim
    return next((point.metric for point in report.result.curve if point.parameters == size), None)


def _wording(name: str, task: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": name,
        "kind": str(task.get("kind") or TaskKind.classification).capitalize(),
        "labels": ", ".join((task.get("labels") or {}).values()),
        "template": task.get("template") or "",
    }


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or row."""
    return " ".join(text.split()).replace("|", "\\|")


def _origin(report: Report) -> str:
    """What was slimmed, in words: the model that was first slimmed, its revision, what was done to it since."""
    model, before = report.request.model, len(report.lineage)
    root = report.lineage[0] if report.lineage else model
    revision = f" at revision {root.revision}" if root.revision else ""
    merged = merged_adapters(report)
    names = " and ".join(map(_public_name, merged))
    adapter = f" with the adapter{'s' if len(merged) > 1 else ''} {names} merged" if merged else ""
    again = f", which {before} {'job has' if before == 1 else 'jobs have'} slimmed before" if before else ""
    return f"{_base(report)}{revision}{adapter}{again}"


def _base(report: Report) -> str:
    """The Hub's id of the model that was first slimmed, or the last part of its address."""
    return _public_name(root_uri(report))


def _public_name(uri: str) -> str:
    """The Hub's id, or the last part of an address: where else it lies is nobody's business on a hub."""
    return uri.removeprefix("hf://") if scheme_of(uri) == "hf" else uri.rstrip("/").rsplit("/", 1)[-1]
