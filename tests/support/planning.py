"""Requests for tiny models of `tests.support.checkpoints`, and the errors that refuse a request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import TaskslimError
from service.contract.options import Unit
from service.contract.request.job_request import JobRequest
from service.models.families.runtimes.sizes import SlimSizes
from service.planning.admission import check_request
from service.sources.access import Access

ROWS = [{"text": f"good film {number}", "label": ("bad", "good")[number % 2]} for number in range(12)]
LABELS = {"bad": "bad", "good": "good"}
CLASSES = {"bad": "LABEL_0", "good": "LABEL_1"}  # of a tiny classification head


def sizes(family: str, units: Sequence[Unit] = (Unit.ffn,), **changes: Any) -> SlimSizes:
    """The sizes of a slim model with 512 hidden channels."""
    fixed: dict[str, Any] = {"widths": [256], "heads": 8, "head_size": 64, "layers": 12, "hidden_size": 512}
    return SlimSizes(family, units, **fixed | {"config": {}} | changes)


def request_for(directory: Path, ratio: float = 0.3, round_to: int = 8, **fields: Any) -> JobRequest:
    """A request for the model in a directory, with `fields` in place of its own."""
    config = directory / "config.json"
    has_head = config.exists() and "SequenceClassification" in config.read_text()
    labels = CLASSES if has_head else LABELS
    fixed = {
        "model": {"uri": directory.as_uri()},
        "task": {"template": "{text}:", "labels": labels, "calibration": {"rows": ROWS}},
        "target": {"ratio": ratio},
        "output": {"round_to": round_to},
    }
    return JobRequest.model_validate(fixed | fields)


def refuse(body: dict[str, Any], access: Access, error: type[TaskslimError], param: str) -> str:
    """The message with which `check_request` refuses a body; asserts the type of the error and the field it names."""
    with pytest.raises(error) as caught:
        check_request(JobRequest.model_validate(body), access)
    assert type(caught.value) is error
    assert caught.value.param == param
    return caught.value.message
