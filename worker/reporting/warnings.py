"""The warnings of a report: a table of checks, each a pure function from the report to a message or None.

A message states a fact about this job with its figures, and what to do about it.
"""

from collections.abc import Callable

from service.contract.answers.report import Confusion, Report, ReportWarning
from service.contract.answers.result import Metrics
from service.contract.options import METRICS, Collapse, Supervision, TaskKind, TaskMetric, Unit
from service.models.families.per_layer import MODELLING_FILE, has_own_widths
from service.reports.formatting import difference, fixed, interval, percent, size
from service.reports.metric_names import metric_name
from service.reports.runtime_names import RUNTIME_NAMES
from worker.checkpoints.dtypes import OVERFLOWING

DAMAGE_SHARE = 0.7  # of the lost answers that are in one class
MIN_DAMAGE = 5  # lost answers; with fewer, their distribution over the classes is chance
KEPT_SHARE = 0.5  # of the written texts
NOTABLE_SHARE = 0.1  # of the answers or prompts
ONE_ANSWER_SHARE = 0.9  # of the rows that get the same answer
FREQUENT_LABEL_SHARE = 0.8  # of the rows with one label; above it, giving that answer often is right
RATIO_TOLERANCE = 0.03
DRIFT_TOLERANCE = 1.25


def warnings(report: Report) -> list[ReportWarning]:
    """The warnings that apply to a report, in the order of `CHECKS`."""
    found = ((code, check(report)) for code, check in CHECKS.items())
    return [ReportWarning(code=code, message=message) for code, message in found if message]


def _judged_by_dense(report: Report) -> str | None:
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


def _dense_fails(report: Report) -> str | None:
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


def _at_majority(report: Report) -> str | None:
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


def _not_pushed(report: Report) -> str | None:
    """The model could not be pushed to `output.uri`."""
    pushed = report.result.pushed
    return None if pushed is None or pushed.error is None else pushed.error.message


def _offsets_mislead(report: Report) -> str | None:
    """The label offsets make the slim model's answers worse."""
    slim = report.result.metrics.slim
    if slim.raw is None or slim.raw.value <= slim.value.high:
        return None
    return (
        f"With its label offsets the slim model's {metric_name(slim)} is {interval(slim.value)}, without them "
        f"{percent(slim.raw.value)}: the labels are not as frequent among the calibration rows as among the evaluation "
        "rows. Send calibration rows that are drawn as the rows of the task are."
    )


def _one_answer(report: Report) -> str | None:
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


def _damage_in_one_class(report: Report) -> str | None:
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


def _empty(report: Report) -> str | None:
    """The slim model gives more empty texts than the dense one."""
    slim, dense = report.result.metrics.slim.empty, report.result.metrics.dense.empty
    if slim is None or dense is None or slim < dense + NOTABLE_SHARE:
        return None
    return (
        f"The slim model's text is empty for {percent(slim)} of the rows, the dense model's for {percent(dense)}. "
        "Remove less."
    )


def _repetition(report: Report) -> str | None:
    """The slim model repeats itself more often than the dense one."""
    slim, dense = report.result.metrics.slim.repetition, report.result.metrics.dense.repetition
    if slim is None or dense is None or slim < dense + NOTABLE_SHARE:
        return None
    return (
        f"The slim model repeats itself in {percent(slim)} of its answers, the dense model in {percent(dense)}. "
        "Remove less."
    )


def _unresolved_loss(report: Report) -> str | None:
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


def _shortened_prompts(report: Report) -> str | None:
    """Many prompts were longer than the model allows."""
    prompts = report.calibration_examples + report.result.metrics.slim.examples
    if report.shortened_prompts < NOTABLE_SHARE * prompts:
        return None
    return (
        f"{report.shortened_prompts} of {prompts} prompts were cut to the number of tokens that the model takes; their "
        "answers may be about a part of the text. Send shorter rows, or set `max_words`."
    )


def _dequantised(report: Report) -> str | None:
    """The dense model is the dequantised one, and its files are smaller than they look."""
    found, weights = report.dequantised, report.result.bytes
    if found is None:
        return None
    return (
        f"The weights of the model are quantised ({found.format}, {size(weights.dense)}). They were dequantised to "
        f"{found.dtype} ({size(found.bytes)}): that is the dense model here, whose activations are not quantised. The "
        f"slim checkpoint is not quantised ({size(weights.slim)}): quantise it again for the size and the speed of "
        "quantised weights."
    )


def _overflows_in_half(report: Report) -> str | None:
    """The checkpoint is stored in a dtype that its family cannot be computed in."""
    if report.stored_dtype != "float16" or report.family not in OVERFLOWING:
        return None
    return (
        f"The checkpoint is stored in float16, in which the activations of {report.family} overflow. It was measured "
        f"in {report.computed_dtype}: serve it in bfloat16 or float32, not in float16."
    )


def _rounded_weights(report: Report) -> str | None:
    """The files of the model hold numbers that the dtype in config.json cannot hold."""
    if not report.rounded_dtypes:
        return None
    found = " and ".join(report.rounded_dtypes)
    return (
        f"The model has weights in {found}, and its config.json says {report.stored_dtype}, to which transformers "
        f"rounds them: both models were measured so, and the slim checkpoint is in {report.stored_dtype}. Set `dtype` "
        "in config.json to float32 to keep them as they are."
    )


def _special_tokens_in_template(report: Report) -> str | None:
    """The template has special tokens of the tokenizer, which were not added a second time."""
    found = report.written_special_tokens
    if not found:
        return None
    return (
        f"The template itself has {', '.join(found)}, which the tokenizer adds to every prompt: each is in the prompt "
        "once. Leave it out of the template, because a server adds it again."
    )


def _ratio_rounded(report: Report) -> str | None:
    """The ratio differs from the one in the request."""
    requested, removed = report.request.target.ratio, report.result.ratio
    if requested is None or abs(requested - removed) <= RATIO_TOLERANCE:
        return None
    return (
        f"The request has a ratio of {requested}, and {removed:.3f} was removed, because "
        + "; ".join(STEPS[unit].format(round_to=report.request.output.round_to) for unit in report.request.method.units)
        + "."
    )


def _above_latency(report: Report) -> str | None:
    """The slim model met the latency bound in the search, but not in the final measurement."""
    bound, measured = report.request.target.latency_ms, report.result.latency_ms.slim
    if bound is None or measured <= bound.value:
        return None
    return (
        f"The slim model took {measured:.2f} ms in the final measurement, more than the bound of {bound.value:g} ms "
        "that it met in the search: the speed of the machine varies that much."
    )


def _below_floor(report: Report) -> str | None:
    """The rows that did not steer the search do not confirm that the floor is kept."""
    kept = report.result.kept_metric
    if kept is None or kept.reported.low >= kept.floor:
        return None
    return (
        f"On the rows that the search did not use, the slim model keeps {interval(kept.reported)} of the dense metric: "
        f"the interval does not exclude that it keeps less than {percent(kept.floor)}."
    )


def _per_layer_widths(report: Report) -> str | None:
    """The layers have different widths, which only some runtimes load."""
    if not has_own_widths(report.result):
        return None
    refusing = [RUNTIME_NAMES.get(each.name, each.name) for each in report.runtimes if not each.loads]
    in_vllm = any(each.name == "vllm" and each.loads for each in report.runtimes)
    and_vllm = ", vLLM with `--trust-remote-code`" if in_vllm else ""
    formats = [f"{each.name} loads the format `{each.export}`" for each in report.runtimes if each.export]
    others = f"In its place {' and '.join(formats)} of `output.formats`. " if formats else ""
    return (
        "The layers have different widths. Transformers loads the checkpoint with trust_remote_code=True"
        f"{and_vllm}, by the class in its {MODELLING_FILE}; Taskslim loads it without. {others}These runtimes do not "
        f"load it: {', '.join(refusing)}. Send the layout `uniform` for these."
    )


def _few_written(report: Report) -> str | None:
    """Most of what a language model wrote is not used."""
    for title, found in report.synthesis.items():
        for name, counts in (("rows", found.rows), ("rationales", found.rationales)):
            if counts is not None and counts.kept < KEPT_SHARE * counts.written:
                reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.dropped.items())
                return (
                    f"{counts.kept} of {counts.written} {name} that {found.writer} wrote for {title} were kept "
                    f"({reasons}): name a model in `synthesis.model` that writes better, or more given rows. "
                    "synthesis.jsonl has them all."
                )
    return None


def _no_rationales(report: Report) -> str | None:
    """The training had too few rationales for a stage of their own."""
    asked, found = report.request.recovery, report.result.recovery
    if asked is None or found is None or not asked.reads_rationales or found.rationales is not None:
        return None
    return (
        "Too few rationales were kept to train on some and hold others out: the model was trained on answers alone. "
        "Name a model in `synthesis.model` that writes better rationales."
    )


def _not_recovered(report: Report) -> str | None:
    """The recovery did not make the slim model better."""
    found = report.result.recovery
    if found is None:
        return None
    before, after = found.metrics.slim, found.metrics.recovered
    if found.best_step == 0:
        return (
            "The recovery did not lower the loss on the held-out rows: the model is the one before it. Send more "
            "calibration rows, more `recovery.seconds` or another `recovery.learning_rate`."
        )
    if after.value.value > before.value.value:
        return None
    return (
        f"The recovery did not improve the model: its {metric_name(after)} is {interval(after.value)}, and was "
        f"{interval(before.value)} before. The model before it is in {found.artifact}."
    )


def _fewer_experts_per_token(report: Report) -> str | None:
    """A layer keeps fewer experts than the router sent each token to."""
    for widths in report.result.widths:
        if widths.per_token is not None and widths.per_token.slim < widths.per_token.dense:
            return (
                f"The router sends each token to {widths.per_token.slim} instead of {widths.per_token.dense} experts, "
                "because a layer keeps no more: send a lower target if the metric suffers from it."
            )
    return None


def _experts_without_tokens(report: Report) -> str | None:
    """Neurons were chosen in experts that no calibration token is sent to."""
    found = [layer for layer in report.layers if layer.experts_without_tokens and layer.slim < layer.dense]
    if not found:
        return None
    return (
        f"In {len(found)} layers no calibration token is sent to some of the experts, "
        f"{sum(layer.experts_without_tokens or 0 for layer in found)} in all: their neurons have no score, so that the "
        "first of them were kept, and no repair has changed them. Send more calibration rows, or remove such experts: "
        "give `units: [experts, ffn]` with `scope: global`."
    )


def _more_tokens(report: Report) -> str | None:
    """Texts of the evaluation rows have words that the slim model reads in more pieces."""
    read = report.read_tokens
    if read is None or read.slim == read.dense:
        return None
    return (
        f"The slim model reads {read.longer_rows} of {read.rows} evaluation rows in other pieces than the dense one, "
        f"{read.slim - read.dense} tokens more than {read.dense}, because the texts that the vocabulary was chosen by "
        "lack some of their words: name more texts in `task.texts`."
    )


def _uneven_machine(report: Report) -> str | None:
    """The machine was faster for one model than for the other."""
    drift = report.result.latency_ms.drift
    if drift is None or 1 / DRIFT_TOLERANCE <= drift <= DRIFT_TOLERANCE:
        return None
    return (
        f"A fixed computation took {drift:.2f} times as long when the slim model was timed as when the dense model "
        "was, because of other programs or the clock of the processor: compare the speeds again on a quiet machine."
    )


STEPS = {  # kind of unit -> in which steps it is removed, and what to do about it
    Unit.ffn: "widths are multiples of {round_to}: send a smaller `output.round_to` to come closer",
    Unit.heads: "attention heads are removed as whole heads or key-value groups",
    Unit.head_dims: "the heads of a stack keep the same number of dimensions",
    Unit.layers: "layers are removed as a whole",
    Unit.experts: "experts are removed as a whole",
    Unit.vocabulary: "tokens that a text needs stay",
}


def _collapse(report: Report) -> str | None:
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


COLLAPSES = {
    Collapse.one_label: "it gives nearly every row the same label",
    Collapse.empty: "most of its texts are empty",
    Collapse.repetition: "most of its texts repeat themselves",
}

CHECKS: dict[str, Callable[[Report], str | None]] = {
    "not_pushed": _not_pushed,
    "judged_by_dense": _judged_by_dense,
    "dense_fails": _dense_fails,
    "at_majority": _at_majority,
    "offsets_mislead": _offsets_mislead,
    "one_answer": _one_answer,
    "damage_in_one_class": _damage_in_one_class,
    "empty_answers": _empty,
    "repetition": _repetition,
    "collapse": _collapse,
    "unresolved_loss": _unresolved_loss,
    "shortened_prompts": _shortened_prompts,
    "dequantised": _dequantised,
    "overflows_in_half": _overflows_in_half,
    "rounded_weights": _rounded_weights,
    "special_tokens_in_template": _special_tokens_in_template,
    "ratio_rounded": _ratio_rounded,
    "above_latency": _above_latency,
    "below_floor": _below_floor,
    "per_layer_widths": _per_layer_widths,
    "few_written": _few_written,
    "no_rationales": _no_rationales,
    "not_recovered": _not_recovered,
    "fewer_experts_per_token": _fewer_experts_per_token,
    "experts_without_tokens": _experts_without_tokens,
    "more_tokens": _more_tokens,
    "uneven_machine": _uneven_machine,
}
