"""Pairs of texts with a number, and the task of an encoder without a head that embeds them."""

from typing import Any

from tests.support.pipeline_jobs import WORDS

TASK: dict[str, Any] = {"kind": "embedding", "template": None, "labels": None}
COUNT = 60


def pairs(count: int = COUNT) -> list[dict[str, Any]]:
    """Rows with two texts and a number."""
    texts = [" ".join(WORDS[(row * step) % 8] for step in (1, 3, 5)) + " good" * (row // 8) for row in range(count)]
    return [
        {"text": text, "text_b": f"{texts[(7 * row + 3) % count]} {WORDS[row % 5]}", "label": row % 6}
        for row, text in enumerate(texts)
    ]
