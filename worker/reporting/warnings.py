"""What a reader of the report must not overlook, in plain words: one function for each warning, all of them pure.

A warning is a fact about this run with its figures and what to do about it. None is a verdict.
"""

from collections.abc import Callable

from service.contract.options import Supervision
from service.contract.per_layer import MODELLING_FILE, has_own_widths
from service.contract.report import Confusion, Report, ReportWarning
from service.reports.metric_names import headline_name

DAMAGE_SHARE = 0.7  # of the answers that went wrong, in one class
MIN_DAMAGE = 5  # below it, which class they fall in is chance
MANY = 0.1  # share of answers or prompts that is worth a line
RATIO_TOLERANCE = 0.03


def warnings(report: Report) -> list[ReportWarning]:
    """Every warning that the report's figures give cause for."""
    found = ((code, check(report)) for code, check in CHECKS.items())
    return [ReportWarning(code=code, message=message) for code, message in found if message]


def _at_majority(report: Report) -> str | None:
    slim = report.result.metrics.slim
    accuracy = slim.headline
    if slim.majority is None or accuracy is None or accuracy.low > slim.majority:
        return None
    return (
        f"The slim model is not better than always giving the most frequent label: its {headline_name(slim)} is "
        f"{_percent(accuracy.value)} ({_percent(accuracy.low)} to {_percent(accuracy.high)}), that label has "
        f"{_percent(slim.majority)} of the rows. Remove less."
    )


def _dense_fails(report: Report) -> str | None:
    """What a model cannot do it cannot lose: the figures then say nothing of the cut."""
    dense = report.result.metrics.dense
    found = dense.headline
    if found is None:
        return None
    if dense.exact_match is not None and found.value == 0:
        return (
            "The dense model writes none of the targets, so that its exact match says nothing of what was lost: see "
            "the probability of the targets' tokens, or choose a template and targets that it was trained on."
        )
    if dense.majority is None or found.low > dense.majority:
        return None
    return (
        f"The dense model itself is not better than always giving the most frequent label: its {headline_name(dense)} "
        f"is {_percent(found.value)} ({_percent(found.low)} to {_percent(found.high)}), that label has "
        f"{_percent(dense.majority)} of the rows. Nothing that it can do was there to be kept: check the wording."
    )


def _unlabelled(report: Report) -> str | None:
    if report.result.metrics.slim.judged_by is Supervision.labels:
        return None
    return (
        "The evaluation rows have no labels: the figures are agreement with the dense model, not accuracy. A slim "
        "model that is wrong where the dense one is counts as right there. Only rows with labels tell how good it is."
    )


def _unresolved_loss(report: Report) -> str | None:
    dense, slim = report.result.metrics.dense.headline, report.result.metrics.slim.headline
    if dense is None or slim is None:
        return None
    loss, width = dense.value - slim.value, slim.high - slim.low
    if abs(loss) >= width:
        return None
    return (
        f"The 95 % interval of the figure, {_points(width, sign=False)} wide on {report.result.metrics.slim.examples} "
        f"evaluation rows, is wider than the change of {_points(-loss)}: how much was lost is known only roughly. "
        "More evaluation rows give a firm figure."
    )


def _damage_in_one_class(report: Report) -> str | None:
    if report.confusion is None:
        return None
    lost = _lost(report.confusion)
    label, worst = max(lost.items(), key=lambda item: item[1])
    total = sum(lost.values())
    if total < MIN_DAMAGE or worst < DAMAGE_SHARE * total or len(lost) < 2:
        return None
    return (
        f"Most of the damage is in one class: of {total} right answers that were lost, {worst} are rows labelled "
        f"{label!r}. The figure over all rows hides it."
    )


def _lost(confusion: Confusion) -> dict[str, int]:
    """Label -> how many fewer of its rows the slim model answers rightly."""
    matrices = zip(confusion.labels, confusion.dense, confusion.slim, strict=True)
    return {label: max(0, dense[i] - slim[i]) for i, (label, dense, slim) in enumerate(matrices)}


def _one_answer(report: Report) -> str | None:
    if report.confusion is None:
        return None
    given = {label: sum(row[i] for row in report.confusion.slim) for i, label in enumerate(report.confusion.labels)}
    label, most = max(given.items(), key=lambda item: item[1])
    total, rows = sum(given.values()), dict(zip(report.confusion.labels, map(sum, report.confusion.slim), strict=True))
    if most < 0.9 * total or rows[label] >= 0.8 * total:
        return None
    right = _percent(rows[label] / total)
    return (
        f"The slim model answers {label!r} to {_percent(most / total)} of the rows, of which {right} "
        "are so labelled: it has a bias towards that answer. Subtract each label's mean score, or remove less."
    )


def _repetition(report: Report) -> str | None:
    share = report.result.metrics.slim.repetition
    before = report.result.metrics.dense.repetition
    if share is None or before is None or share < before + MANY:
        return None
    return (
        f"Generation has degenerated into repetition: {_percent(share)} of the slim model's answers repeat themselves, "
        f"{_percent(before)} of the dense model's. Remove less."
    )


def _rounded(report: Report) -> str | None:
    asked, got = report.request.target.ratio, report.result.ratio
    if asked is None or abs(asked - got) <= RATIO_TOLERANCE:
        return None
    return (
        f"A ratio of {asked} was asked for and {got:.3f} was removed, since widths are multiples of "
        f"{report.request.output.round_to}. A smaller `output.round_to` comes closer."
    )


def _slow(report: Report) -> str | None:
    bound, measured = report.request.target.latency_ms, report.result.latency_ms.slim
    if bound is None or measured <= bound.value:
        return None
    return (
        f"The slim model took {measured:.2f} ms when it was timed again beside the dense one, more than the "
        f"{bound.value:g} ms that were asked for and that it kept in the search: the machine's speed varies that much."
    )


def _below_floor(report: Report) -> str | None:
    kept = report.result.kept_metric
    if kept is None or kept.reported.low >= kept.floor:
        return None
    return (
        f"On the rows that did not steer the search the slim model keeps {_percent(kept.reported.value)} of the dense "
        f"metric ({_percent(kept.reported.low)} to {_percent(kept.reported.high)}): they do not exclude that it keeps "
        f"less than {_percent(kept.floor)}."
    )


def _shortened(report: Report) -> str | None:
    prompts = report.calibration_examples + report.result.metrics.slim.examples
    if report.shortened_prompts < MANY * prompts:
        return None
    return (
        f"{report.shortened_prompts} of {prompts} prompts lost words because the model takes no more tokens; "
        "its answers there may be about half a text."
    )


def _own_widths(report: Report) -> str | None:
    if not has_own_widths(report.result):
        return None
    return (
        "The layers have widths of their own. Transformers loads the checkpoint with trust_remote_code=True, by the "
        f"class in its {MODELLING_FILE}, and Taskslim without; vLLM, SGLang and llama.cpp do not load it. The layout "
        "`uniform` is for those."
    )


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _points(share: float, *, sign: bool = True) -> str:
    points = round(share * 100, 1)
    return f"{points:{'+' if sign and points else ''}.1f} points".replace("-", "−") if points else "0.0 points"


CHECKS: dict[str, Callable[[Report], str | None]] = {
    "judged_by_dense": _unlabelled,
    "dense_fails": _dense_fails,
    "at_majority": _at_majority,
    "one_answer": _one_answer,
    "damage_in_one_class": _damage_in_one_class,
    "repetition": _repetition,
    "unresolved_loss": _unresolved_loss,
    "shortened_prompts": _shortened,
    "ratio_rounded": _rounded,
    "above_latency": _slow,
    "below_floor": _below_floor,
    "per_layer_widths": _own_widths,
}
