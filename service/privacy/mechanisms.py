"""The mechanisms by name, and the largest budgets that they take. This module needs no extra."""

from enum import StrEnum

MAX_UNCHANGED = 0.99  # share of the tokens, or of the labels, that may stay as they are


class MechanismName(StrEnum):
    """How tokens are replaced."""

    exponential = "exponential"
    adaptive = "adaptive"
