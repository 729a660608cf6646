"""The table of the demo: the dense model, the slim one, and one of the same size whose units were chosen at random."""

from rich.table import Table

from service.contract.answers.result import Result
from service.reports.formatting import change, count, milliseconds, percent, points, size, span
from service.reports.metric_names import qualities, share_of_most_frequent


def demo_table(slim: Result, random: Result) -> Table:
    """The figures of the three models. `random` is the result of the job with the criterion `random`."""
    table = Table(title=_title(slim), title_justify="left", caption=_caption(slim), caption_justify="left")
    for header in ("", "dense", "slim", "random"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    sizes, weights, latency = slim.parameters, slim.bytes, slim.latency_ms
    table.add_row("parameters", *map(count, (sizes.dense, sizes.slim, random.parameters.slim)))
    table.add_row("bytes", *map(size, (weights.dense, weights.slim, random.bytes.slim)))
    models = (slim.metrics.dense, slim.metrics.slim, random.metrics.slim)
    for named in zip(*map(qualities, models), strict=True):  # with label offsets, and without
        table.add_row(named[0][0], *(percent(found.value) for _, found in named))
        table.add_row("  95 % interval", *(span(found) for _, found in named), style="dim")
    # Timed in turn; that of another job was timed at another time.
    table.add_row("latency", milliseconds(latency.dense), milliseconds(latency.slim), "")
    return table


def _title(slim: Result) -> str:
    units = ", ".join(sorted({entry.unit for entry in slim.widths}))
    sizes, dense, kept = slim.parameters, slim.metrics.dense.value.value, slim.metrics.slim.value.value
    return f"Parameters {change((sizes.dense, sizes.slim))} ({units}), accuracy {points((dense, kept))}"


def _caption(slim: Result) -> str:
    """The rows and the input that the figures were measured on."""
    metrics, latency = slim.metrics.dense, slim.latency_ms
    majority = "" if metrics.majority is None else f", {percent(metrics.majority)} {share_of_most_frequent(metrics)}"
    return (
        f"{metrics.examples} evaluation rows{majority}; random: as many neurons and heads removed, by random scores, "
        f"with the same repair; latency: median forward pass of {latency.batch} x {latency.tokens} tokens, "
        f"{latency.device}"
    )
