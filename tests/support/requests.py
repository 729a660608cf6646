"""A request whose model and rows do not exist, for tests that read neither."""

from typing import Any

from service.contract.request.job_request import JobRequest


def plain_request(**fields: Any) -> JobRequest:
    """A valid request, with `fields` in place of its own."""
    request = {
        "model": {"uri": "file:///models/one"},
        "task": {"preset": "sst2", "calibration": {"uri": "file:///rows.jsonl"}},
        "target": {"ratio": 0.3},
    }
    return JobRequest.model_validate(request | fields)
