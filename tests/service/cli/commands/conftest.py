"""A working directory with a model, rows and a request."""

import json
from pathlib import Path

import pytest

from tests.support.cli_rows import ROWS
from tests.support.job_requests import model_directory


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a model in `model`, rows in `rows.csv`, and other rows in `held-out.jsonl`."""
    monkeypatch.chdir(tmp_path)
    model_directory(tmp_path / "model")
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "held-out.jsonl").write_text('{"text": "loud", "label": "negative", "title": "Loud"}\n')
    return tmp_path


@pytest.fixture
def request_file(place: Path) -> Path:
    """A request that names other rows than those of the working directory."""
    source = {"uri": "file:///rows.jsonl", "limit": 3}
    task = {"preset": "sst2", "calibration": source}
    (place / "request.json").write_text(
        json.dumps({"model": {"uri": (place / "model").as_uri()}, "task": task, "target": {"ratio": 0.3}})
    )
    return place / "request.json"
