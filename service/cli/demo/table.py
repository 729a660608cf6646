"""The table of the demo: the dense model, the slim one, and one of the same size whose units were chosen at random."""

from rich.table import Table

from service.contract.result import Result
from service.reports.formatting import change, count, milliseconds, percent, points, size, span
from service.reports.metric_names import share_of_most_frequent


def demo_table(slim: Result, random: Result) -> Table:
    """The figures of the three models. `random` is the result of the job with the criterion `random`."""
    table = Table(title=_title(slim), title_justify="left", caption=_caption(slim), caption_justify="left")
    for header in ("", "dense", "slim", "change", "random"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    sizes, weights = slim.parameters, slim.bytes
    table.add_row(
        "parameters",
        *(count(sizes.dense), count(sizes.slim), change((sizes.dense, sizes.slim)), count(random.parameters.slim)),
    )
    table.add_row(
        "bytes",
        *(size(weights.dense), size(weights.slim), change((weights.dense, weights.slim)), size(random.bytes.slim)),
    )
    dense, kept, control = slim.metrics.dense.value, slim.metrics.slim.value, random.metrics.slim.value
    change_of_metric = points((dense.value, kept.value))
    table.add_row("accuracy", percent(dense.value), percent(kept.value), change_of_metric, percent(control.value))
    table.add_row("  95 % interval", span(dense), span(kept), "", span(control), style="dim")
    pair = slim.latency_ms.dense, slim.latency_ms.slim
    table.add_row("latency", *map(milliseconds, pair), change(pair), milliseconds(random.latency_ms.slim))
    return table


def _title(slim: Result) -> str:
    removed = 1 - slim.parameters.slim / slim.parameters.dense
    units = ", ".join(sorted({entry.unit for entry in slim.widths}))
    return f"{percent(removed)} of the parameters removed, of {units}"


def _caption(slim: Result) -> str:
    """The rows and the input that the figures were measured on."""
    metrics, latency = slim.metrics.dense, slim.latency_ms
    majority = "" if metrics.majority is None else f", {percent(metrics.majority)} {share_of_most_frequent(metrics)}"
    return (
        f"{metrics.examples} evaluation rows{majority}; random: as many parameters removed, by random scores, with the "
        f"same repair; latency: median forward pass of {latency.batch} x {latency.tokens} tokens, {latency.device}"
    )
