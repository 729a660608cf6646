"""Requests for tiny models of `tests.support.checkpoints`, as far as a plan needs them."""

from pathlib import Path
from typing import Any

from service.contract.request import JobRequest

ROWS = [{"text": f"good film {number}", "label": ("bad", "good")[number % 2]} for number in range(12)]
LABELS = {"bad": "bad", "good": "good"}


def request_for(directory: Path, ratio: float = 0.3, round_to: int = 8, **fields: Any) -> JobRequest:
    """A request for the model in a directory, with `fields` in place of its own."""
    fixed = {
        "model": {"uri": directory.as_uri()},
        "task": {"template": "{text}:", "labels": LABELS, "calibration": {"rows": ROWS}},
        "target": {"ratio": ratio},
        "output": {"round_to": round_to},
    }
    return JobRequest.model_validate(fixed | fields)
