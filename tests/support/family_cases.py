"""Which cases of a property over all families are fast tests.

A property that is tested with more than 20 families runs in `make test` with those of FAST, one for each way in which
stock code builds a layer, and in `make test-all` with every family.
"""

from collections import defaultdict
from collections.abc import Iterable

import pytest

from tests.support.tiny_models import TINY

FAST = frozenset(
    {
        "llama",
        "qwen2",  # biases of the attention
        "gemma2",  # norms behind the blocks, a window, a tied head
        "phi3",  # fused projections
        "qwen3_5_text",  # linear attention
        "qwen3_moe",
        "glm4_moe",  # shared experts, groups, a layer without experts
        "llama_classifier",
        "gpt2",  # transposed weights
        "t5",
        "bart",
        "bert",
        "modernbert",
        "t5gemma",
    }
)
MANY = 20


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Mark the cases of the other families as slow, of each property that has more than MANY families."""
    cases = defaultdict[str, list[tuple[pytest.Item, str]]](list)
    for item in items:
        family = _family(item)
        if family is not None:
            cases[item.nodeid.partition("[")[0]].append((item, family))
    for of_property in cases.values():
        if len({family for _, family in of_property}) > MANY:
            for item, family in of_property:
                if family not in FAST:
                    item.add_marker(pytest.mark.slow)


def _family(item: pytest.Item) -> str | None:
    """The family that the case is of; none for a test that is not of one family."""
    callspec = getattr(item, "callspec", None)
    values = () if callspec is None else (callspec.params.get("family"), callspec.params.get("name"))
    return next((value for value in values if isinstance(value, str) and value in TINY), None)
