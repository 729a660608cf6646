"""Scores and the sums behind them must be finite: a rank of other numbers keeps the units in their first order."""

from torch import Tensor

from worker.slimming.units.groups import Site


class NotFinite(Exception):
    """The measurements of a group are not finite numbers."""


def check_finite(site: Site, *measured: Tensor | None) -> None:
    """Raise NotFinite unless all values are finite numbers."""
    if not all(values is None or bool(values.isfinite().all()) for values in measured):
        raise NotFinite(f"the activations or gradients of the {site.unit} in layer {site.layer} of the {site.stack}")
