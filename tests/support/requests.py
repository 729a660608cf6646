"""A request that names nothing real: for tests that stop before the work begins."""

from typing import Any

from service.contract.request import JobRequest


def plain_request(**fields: Any) -> JobRequest:
    """A valid request, with `fields` in place of its own."""
    request = {
        "model": {"uri": "file:///models/one"},
        "task": {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}},
        "target": {"ratio": 0.3},
    }
    return JobRequest.model_validate(request | fields)
