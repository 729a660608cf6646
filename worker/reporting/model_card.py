"""The model card of a checkpoint: README.md in the format of the Hugging Face Hub."""

from collections.abc import Iterator, Mapping
from math import exp
from typing import Any

from huggingface_hub import ModelCard

from service.contract.answers.report import Report
from service.contract.answers.result import CurvePoint, DenseSlim, JobMetrics, QuantisedModel
from service.contract.criteria import CRITERIA
from service.contract.options import METRICS, Precision, Supervision, TaskKind, TaskMetric
from service.models.families.per_layer import MODELLING_FILE, has_own_widths
from service.reports.formatting import change, count, interval, percent, size
from service.reports.metric_names import capitalised, metric_name, name_of, qualities
from service.reports.model_origin import merged_adapters, root
from service.storage.artifact_names import MODEL
from worker.reporting.card_metadata import (
    base_model,
    metadata,
    model_name,
    other_evaluations,
    public_name,
)

STOCK_CLASS = "It is an ordinary checkpoint, which the stock class loads."
ROWS = "8 bits, a scale for each row"
# How a precision stores weights and computes; a group is so many weights of a row.
SCHEMES = {
    Precision.int8: ROWS,
    Precision.w8a8: f"{ROWS}; activations are rounded to 8 bits",
    Precision.w4a16: "4 bits, a scale for each {group} weights of a row",
}
OWN_CLASS = f"Its layers have different widths: the class that loads it is in `{MODELLING_FILE}`."

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

{{ origin }}, slimmed for {{ purpose }}: {{ removed }} of its {{ units }} parameters are cut out, which leaves
{{ slim }} of {{ dense }} parameters ({{ change }}). {{ needs }}
Units that the task does not use were removed: the model may have lost other abilities of the base model.

## Use

```python
{{ snippet }}
```

## Task

{% for task in tasks %}
{{ task.name }}{{ task.kind }}{% if task.labels %}, with the answers {{ task.labels }}{% endif %}.
{% if task.messages -%}
The prompt is the conversation as the tokenizer's chat template writes it, with the generation prompt
(`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`). With it the model was slimmed and evaluated.
{%- elif not task.template -%}
There is no prompt. The words of a text are joined by spaces; each has the tag that the model gives its first token.
{%- else -%}
Use exactly this prompt, with which the model was slimmed and evaluated:

~~~~text
{{ task.template }}
~~~~
{%- endif %}
{% endfor %}

## Evaluation

On {{ examples }} rows that were not used to choose the removed units{% if majority %}; the most frequent
{{ answer }} has {{ majority }} of {{ whole }}{% endif %}.{% if unlabelled %} The rows have no labels: the metrics
show {% if embeds %}how near the slim model's embeddings are to the dense one's{% else %}how often the slim model
answers as the dense one{% endif %}, not how often it is right.{% endif %} Intervals are 95 %.

| | dense | slim |
| --- | --- | --- |
{%- for row in figures %}
| {{ row }} |
{%- endfor %}
{% if others %}
Other evaluations:

| | dense | slim |
| --- | --- | --- |
{%- for row in others %}
| {{ row }} |
{%- endfor %}
{% endif %}
{% if copies %}
## Quantised copies

The job stored these copies of the model beside it, each measured on the same rows. Embeddings, norms and the head are
as they were. A copy has a `task.json` of its own{% if labelled %}, with label offsets that are fitted to it{% endif %}.

| precision | directory | weights | size | {{ metric }} |
| --- | --- | --- | --- | --- |
{%- for copy in copies %}
| {{ copy.row }} |
{%- endfor %}
{% for copy in copies %}
{{ copy.precision }} in Python{% if copy.command %}, or served with vLLM by `{{ copy.command }}`{% endif %}:

```python
{{ copy.snippet }}
```
{% endfor %}
{%- endif %}
{% if warnings %}
## Warnings
{% for warning in warnings %}
- {{ warning }}
{%- endfor %}
{% endif %}
## Method

Every unit was scored on {{ calibration }} examples of the task by the criterion `{{ criterion }}`{% if source %}
({{ source }}){% endif %}, and those with the lowest scores were removed: ranked by the scope `{{ method.scope }}`,
{{ "in one step" if method.steps == 1 else "in %d steps" | format(method.steps) }}, with the layout
`{{ layout }}`. {% if method.merge != "none" %}Experts with similar router logits were merged into one
(`{{ method.merge }}`), without training.{% elif method.repair == "none" %}The weights that stay are unchanged.
{%- else %}The weights that stay were adjusted by the repair `{{ method.repair }}`, without training.{% endif %}
{%- if recovery %} Then the model was trained
for {{ recovery.steps }} steps on {{ recovery.train_rows }} of these examples: LoRA weights of rank {{ recovery.rank }},
by the method `{{ recovery_method }}`, of which those of step {{ recovery.best_step }} are merged.{% endif %}
Options: {{ options }}. Made by Taskslim {{ version }}, job {{ job }}. The licence is that of the base
model{% if licence %}, {{ licence }}{% endif %}.
"""


def card(report: Report, licence: Mapping[str, Any] = {}, point: CurvePoint | None = None) -> str:
    """The card of a report's checkpoint: metadata, how to use the model, and its evaluation.

    `licence` has the fields that `licence_of` gives for the incoming model. With `point`, the card is that of another
    checkpoint of the sweep.
    """
    report = report if point is None else _report_of_point(report, point)
    words = _summary(report) | _tasks(report) | _evaluation(report) | _copies(report) | _method(report)
    words["licence"] = licence.get("license_name") or licence.get("license", "")
    return str(ModelCard.from_template(metadata(report, licence), template_str=TEMPLATE, **words))


def _report_of_point(report: Report, point: CurvePoint) -> Report:
    """The report of another checkpoint of the sweep, with its size and its metric.

    Its other metrics and its warnings are unknown, and left out.
    """
    result, directory = report.result, point.artifact or ""
    unknown = dict.fromkeys(
        (
            "raw",
            "log_likelihood",
            "token_log_likelihood",
            "perplexity",
            "mean_squared_error",
            "empty",
            "repetition",
        )
    )
    metrics = JobMetrics(
        dense=result.metrics.dense.model_copy(update=unknown),
        slim=result.metrics.slim.model_copy(update=unknown | {"value": point.metric}),
    )
    parameters = DenseSlim(dense=result.parameters.dense, slim=point.parameters)
    changed = {"ratio": point.ratio, "parameters": parameters, "metrics": metrics, "curve": [point], "quantised": []}
    snippet = _in_directory(report.snippet, directory)
    return report.model_copy(update={"result": result.model_copy(update=changed), "snippet": snippet, "warnings": []})


def untrained_card(report: Report, licence: Mapping[str, Any] = {}) -> str:
    """The card of the model before its recovery. Its other evaluations and its warnings are unknown, and left out."""
    result, recovery = report.result, report.result.recovery
    assert recovery is not None, "the model was recovered"
    metrics = JobMetrics(dense=recovery.metrics.dense, slim=recovery.metrics.slim)
    changed: dict[str, Any] = {"metrics": metrics, "recovery": None, "verified": recovery.verified, "quantised": []}
    snippet = _in_directory(report.snippet, recovery.artifact)
    before = {"result": result.model_copy(update=changed), "snippet": snippet, "warnings": []}
    return card(report.model_copy(update=before), licence)


def _in_directory(snippet: str, directory: str) -> str:
    """The snippet for a checkpoint in another directory."""
    return snippet.replace(f'("{MODEL}"', f'("{directory}"').replace(f'("{MODEL}/', f'("{directory}/')


def _summary(report: Report) -> dict[str, Any]:
    """The words of the template's first section, of the snippet and of the warnings."""
    result, parameters = report.result, report.result.parameters
    return {
        "name": model_name(report),
        "origin": _origin(report),
        "purpose": f"{len(report.tasks)} tasks" if report.tasks else "one task",
        "removed": percent(result.ratio),
        "units": " and ".join(report.request.method.units),
        "slim": count(parameters.slim),
        "dense": count(parameters.dense),
        "change": change((parameters.dense, parameters.slim)),
        "needs": OWN_CLASS if has_own_widths(result) else STOCK_CLASS,
        "snippet": report.snippet.strip(),
        "warnings": [warning.message for warning in report.warnings],
    }


def _origin(report: Report) -> str:
    """The base model, its revision, its quantisation, the adapters that were merged, and the number of earlier jobs."""
    revision = root(report).revision
    at_revision = f" at revision {revision}" if revision else ""
    merged = [public_name(uri) for uri in merged_adapters(report)]
    adapters = f" with the adapter{'s' if len(merged) > 1 else ''} {' and '.join(merged)} merged" if merged else ""
    before = len(report.lineage)
    earlier = f", which {before} {'job has' if before == 1 else 'jobs have'} slimmed before" if before else ""
    found = report.dequantised
    dequantised = f" (quantised as {found.format}, dequantised to {found.dtype})" if found else ""
    return f"{base_model(report)}{at_revision}{dequantised}{adapters}{earlier}"


def _tasks(report: Report) -> dict[str, Any]:
    """The words of the section on the tasks."""
    return {"tasks": [_task(f"{name}: ", task) for name, task in report.tasks.items()] or [_task("", report.task)]}


def _task(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": str(task.get("kind") or TaskKind.classification).capitalize().replace("_", "-"),
        "labels": ", ".join((task.get("labels") or {}).values()),
        "template": task.get("template") or "",
        "messages": task.get("messages"),
    }


def _evaluation(report: Report) -> dict[str, Any]:
    """The words of the section on the evaluation."""
    slim = report.result.metrics.slim
    unlabelled, is_tagged = slim.judged_by is Supervision.none, slim.metric in METRICS[TaskKind.token_classification]
    return {
        "examples": slim.examples,
        "unlabelled": unlabelled,
        "embeds": slim.metric is TaskMetric.cosine_similarity,
        "answer": "tag" if is_tagged else "answer" if unlabelled else "label",
        "whole": "their words" if is_tagged else "them",
        "majority": percent(slim.majority) if slim.majority is not None else "",
        "figures": list(_figures(report)),
        "others": [
            f"{_cell(title)}: {metric_name(pair.slim)} | {interval(pair.dense.value)} | {interval(pair.slim.value)}"
            for title, pair in other_evaluations(report)
        ],
    }


def _figures(report: Report) -> Iterator[str]:
    """The rows of the evaluation table: name, dense, slim."""
    dense, slim = report.result.metrics.dense, report.result.metrics.slim
    for (name, before), (_, now) in zip(qualities(dense), qualities(slim), strict=True):
        yield f"{capitalised(name)} | {interval(before)} | {interval(now)}"
    if dense.mean_squared_error is not None and slim.mean_squared_error is not None:
        yield f"Mean squared error | {dense.mean_squared_error:.4g} | {slim.mean_squared_error:.4g}"
    is_shown = slim.metric is TaskMetric.token_probability
    if dense.token_log_likelihood is not None and slim.token_log_likelihood is not None and not is_shown:
        name = capitalised(name_of(slim, TaskMetric.token_probability))
        yield f"{name} | {percent(exp(dense.token_log_likelihood))} | {percent(exp(slim.token_log_likelihood))}"
    if dense.perplexity is not None and slim.perplexity is not None:
        yield f"Perplexity | {dense.perplexity:.4g} | {slim.perplexity:.4g}"


def _copies(report: Report) -> dict[str, Any]:
    """The words of the section on quantised copies."""
    slim = report.result.metrics.slim
    return {
        "copies": [
            {
                "precision": each.precision,
                "row": _copy(each),
                "snippet": each.snippet.strip(),
                "command": each.command,
            }
            for each in report.result.quantised
        ],
        "labelled": bool(slim.label_offsets),
        "metric": metric_name(slim),
    }


def _copy(copy: QuantisedModel) -> str:
    """The row of the table of copies."""
    scheme = SCHEMES[copy.precision].format(group=copy.group_size)
    metric = interval(copy.metrics.slim.value)
    return f"{copy.precision} | `{copy.directory}/` | {scheme} | {size(copy.bytes.slim)} | {metric}"


def _cell(text: str) -> str:
    """Text for a table cell: in one line, and with `|` escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def _method(report: Report) -> dict[str, Any]:
    """The words of the section on the method."""
    return {
        "criterion": report.request.method.criterion.value,
        "source": CRITERIA[report.request.method.criterion].source,
        "method": report.request.method,
        "layout": report.request.output.layout.value,
        "calibration": report.calibration_examples,
        "recovery": report.result.recovery,
        "recovery_method": report.request.recovery.method.value if report.request.recovery else "",
        "options": ", ".join(f"{name} {value}" for name, value in report.options.items()),
        "version": report.versions.get("taskslim", ""),
        "job": report.job_id,
    }
