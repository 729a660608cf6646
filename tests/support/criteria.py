"""The units that a criterion is tested with."""

from collections.abc import Sequence

from worker.slimming.scoring.criteria import CRITERIA


def served(criterion: str, units: Sequence[str]) -> list[str]:
    """Those of `units` that the criterion has a formula for; the layers where there are none."""
    return [unit for unit in units if unit not in CRITERIA[criterion].unserved] or ["layers"]
