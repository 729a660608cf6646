"""The model card: README.md in the checkpoint, in the Hub's format, so that it can be pushed to a hub as it is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from service.families import FAMILIES
from service.layouts import MODELLING_FILE, has_own_widths
from service.model_files import CARD
from service.qualities import headline_name, qualities
from service.report_page import change, count, interval, percent
from service.schemas import (
    Criterion,
    CurvePoint,
    DenseSlim,
    JobMetrics,
    Metrics,
    MetricsPair,
    Report,
    Supervision,
    TaskKind,
)
from service.sources import scheme_of

PIPELINES = {
    "causal": "text-generation",
    "encoder-decoder": "text2text-generation",
    "classifier": "text-classification",
}

LICENCE_FIELDS = ("license", "license_name", "license_link")
MAX_CARD_BYTES = 2**20

YANG = (
    "[Task-specific Compression for Multi-task Language Models using Attribution-based Pruning]"
    "(https://arxiv.org/abs/2205.04157)"
)
# Where a criterion has its score from, as far as one paper has it.
SOURCES = {
    Criterion.attribution: f"after {YANG}",
    Criterion.activation: "as in [Minitron](https://arxiv.org/abs/2407.14679)",
    Criterion.wanda: "after [Wanda](https://arxiv.org/abs/2306.11695)",
    Criterion.flap: "after [FLAP](https://arxiv.org/abs/2312.11983)",
    Criterion.gisp: "after [GISP](https://arxiv.org/abs/2510.18030)",
    Criterion.magnitude: "after [Han et al.](https://arxiv.org/abs/1506.02626)",
    Criterion.surgeon: "the optimal brain surgeon, with [Kronecker factors](https://arxiv.org/abs/1503.05671)",
}

STOCK_CLASS = "It is an ordinary checkpoint; nothing beside the stock class is needed."
OWN_CLASS = f"Its layers have widths of their own: the class that holds them is in `{MODELLING_FILE}`."

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

{{ origin }} slimmed for {{ purpose }}: {{ removed }} of its {{ units }} parameters are cut out, which leaves {{ slim }}
of {{ dense }} parameters ({{ change }}). {{ needs }}
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


def card(report: Report, licence: Mapping[str, Any] = {}) -> str:
    """README.md for the checkpoint of a report: metadata with `model-index`, then what a user must know.

    `licence` is what `licence_of` finds of the model that came in.
    """
    words = _words(report) | {"licence": licence.get("license_name") or licence.get("license", "")}
    made = ModelCard.from_template(_metadata(report, licence), template_str=TEMPLATE, **words)
    return str(made)


def of_point(report: Report, point: CurvePoint) -> Report:
    """The report as far as it holds of another checkpoint of its sweep, for that one's card."""
    result, place = report.result, point.artifact or ""
    shares = {"accuracy": None, "exact_match": None, "calibrated_accuracy": None}
    judged = {"calibrated_accuracy": point.metric} if result.metrics.slim.calibrated_accuracy else {}
    metrics = JobMetrics(
        dense=result.metrics.dense.model_copy(
            update=shares | {name: getattr(result.metrics.dense, name) for name in judged}
        ),
        slim=result.metrics.slim.model_copy(update=shares | judged),
    )
    parameters = DenseSlim(dense=result.parameters.dense, slim=point.parameters)
    found = result.model_copy(update={"ratio": point.ratio, "parameters": parameters, "metrics": metrics})
    snippet = report.snippet.replace('"model"', f'"{place}"')
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
    is_hub = scheme_of(_root(report)) == "hf"
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
        for field, name, estimate in qualities(pair.slim):
            yield EvalResult(
                task_type=PIPELINES[FAMILIES[report.family].kind],
                dataset_type=title,
                dataset_name=f"evaluation rows of {title}",
                metric_type=_hub_metric(pair.slim, field),
                metric_name=_capital(name),
                metric_value=round(estimate.value, 4),
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
    dense, slim = result.metrics.dense, result.metrics.slim
    parameters = result.parameters
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
        "figures": [
            f"{_capital(name)} | {interval(before)} | {interval(now)}"
            for (_, name, before), (_, _, now) in zip(qualities(dense), qualities(slim), strict=True)
        ],
        "others": [
            f"{_cell(title)}: {headline_name(pair.slim)} | {interval(before)} | {interval(now)}"
            for title, pair in _others(report)
            if (before := pair.dense.headline) and (now := pair.slim.headline)
        ],
        "warnings": [warning.message for warning in report.warnings],
        "criterion": report.request.method.criterion.value,
        "source": SOURCES.get(report.request.method.criterion, ""),
        "method": report.request.method,
        "layout": report.request.output.layout.value,
        "calibration": report.calibration_examples,
        "options": ", ".join(f"{name} {value}" for name, value in report.options.items()),
        "version": report.versions.get("taskslim", ""),
        "job": report.job_id,
    }


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


def _root(report: Report) -> str:
    """The URI of the model that was first slimmed, by this job or one before it."""
    return (report.lineage[0].model if report.lineage else report.request.model.uri).rstrip("/")


def _origin(report: Report) -> str:
    """What was slimmed, in words: the base model, its revision, what was done to it before."""
    model, before = report.request.model, len(report.lineage)
    revision = f" at revision {model.revision}" if model.revision else ""
    adapter = f", with the adapter {model.adapter_uri.removeprefix('hf://')} merged" if model.adapter_uri else ""
    again = f", which {before} {'job has' if before == 1 else 'jobs have'} slimmed before," if before else ""
    return f"{_base(report)}{revision}{adapter}{again}"


def _base(report: Report) -> str:
    """The Hub's id of the model that was first slimmed, or the last part of its address."""
    uri = _root(report)
    return uri.removeprefix("hf://") if scheme_of(uri) == "hf" else uri.rsplit("/", 1)[-1]
