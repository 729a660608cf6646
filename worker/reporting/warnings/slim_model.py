"""What the report warns of in the slim model: its size, its speed and where it can be used.

Each check is a pure function from the report to a message or None.
"""

from service.contract.answers.report import Report
from service.contract.options import Unit
from service.models.families.per_layer import MODELLING_FILE, has_own_widths
from service.reports.formatting import interval, percent
from service.reports.metric_names import metric_name
from service.reports.runtime_names import RUNTIME_NAMES

RATIO_TOLERANCE = 0.03
DRIFT_TOLERANCE = 1.25


def not_pushed(report: Report) -> str | None:
    """The model could not be pushed to `output.uri`."""
    pushed = report.result.pushed
    return None if pushed is None or pushed.error is None else pushed.error.message


STEPS = {  # kind of unit -> in which steps it is removed, and what to do about it
    Unit.ffn: "widths are multiples of {round_to}: send a smaller `output.round_to` to come closer",
    Unit.heads: "attention heads are removed as whole heads or key-value groups",
    Unit.head_dims: "the heads of a stack keep the same number of dimensions",
    Unit.layers: "layers are removed as a whole",
    Unit.experts: "experts are removed as a whole",
    Unit.vocabulary: "tokens that a text needs stay",
}


def ratio_rounded(report: Report) -> str | None:
    """The ratio differs from the one in the request."""
    requested, removed = report.request.target.ratio, report.result.ratio
    if requested is None or abs(requested - removed) <= RATIO_TOLERANCE:
        return None
    return (
        f"The request has a ratio of {requested}, and {removed:.3f} was removed, because "
        + "; ".join(STEPS[unit].format(round_to=report.request.output.round_to) for unit in report.request.method.units)
        + "."
    )


def above_latency(report: Report) -> str | None:
    """The slim model met the latency bound in the search, but not in the final measurement."""
    bound, measured = report.request.target.latency_ms, report.result.latency_ms.slim
    if bound is None or measured <= bound.value:
        return None
    return (
        f"The slim model took {measured:.2f} ms in the final measurement, more than the bound of {bound.value:g} ms "
        "that it met in the search: the speed of the machine varies that much."
    )


def below_floor(report: Report) -> str | None:
    """The rows that did not steer the search do not confirm that the floor is kept."""
    kept = report.result.kept_metric
    if kept is None or kept.reported.low >= kept.floor:
        return None
    return (
        f"On the rows that the search did not use, the slim model keeps {interval(kept.reported)} of the dense metric: "
        f"the interval does not exclude that it keeps less than {percent(kept.floor)}."
    )


def per_layer_widths(report: Report) -> str | None:
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


def not_recovered(report: Report) -> str | None:
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


def fewer_experts_per_token(report: Report) -> str | None:
    """A layer keeps fewer experts than the router sent each token to."""
    for widths in report.result.widths:
        if widths.per_token is not None and widths.per_token.slim < widths.per_token.dense:
            return (
                f"The router sends each token to {widths.per_token.slim} instead of {widths.per_token.dense} experts, "
                "because a layer keeps no more: send a lower target if the metric suffers from it."
            )
    return None


def experts_without_tokens(report: Report) -> str | None:
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


def more_tokens(report: Report) -> str | None:
    """Texts of the evaluation rows have words that the slim model reads in more pieces."""
    read = report.read_tokens
    if read is None or read.slim == read.dense:
        return None
    return (
        f"The slim model reads {read.longer_rows} of {read.rows} evaluation rows in other pieces than the dense one, "
        f"{read.slim - read.dense} tokens more than {read.dense}, because the texts that the vocabulary was chosen by "
        "lack some of their words: name more texts in `task.texts`."
    )


def uneven_machine(report: Report) -> str | None:
    """The machine was faster for one model than for the other."""
    drift = report.result.latency_ms.drift
    if drift is None or 1 / DRIFT_TOLERANCE <= drift <= DRIFT_TOLERANCE:
        return None
    return (
        f"A fixed computation took {drift:.2f} times as long when the slim model was timed as when the dense model "
        "was, because of other programs or the clock of the processor: compare the speeds again on a quiet machine."
    )
