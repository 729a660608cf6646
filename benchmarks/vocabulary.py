"""What a job gains by removing tokens beside other units: parameters and accuracy, with and without the vocabulary.

    .venv/bin/python benchmarks/vocabulary.py [--quick | --rows 400 400] [--shared ../shared] [--models smollm2 t5]

Each model is slimmed for SST-2: by the vocabulary alone, with the texts of the calibration rows and with those of all
training rows, and by feed-forward neurons and heads to a share of its parameters, without the vocabulary and with it.
All models answer the same test rows, which none of the choices has seen. The last line is one JSON object: model ->
case -> rows of the vocabulary that stay, share of all parameters that is removed, accuracy of the dense and the slim
model with 95 % intervals, share of the dense accuracy that is kept, and the tokens of the test rows for both models.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from transformers import AutoTokenizer

from benchmarks.parts.quality.inputs import SOURCES, Source
from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.errors import TargetUnreachable
from service.contract.fields import MAX_RATIO
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.artifact_names import MODEL, REPORT
from service.storage.object_store import Storage
from worker import pipeline

RESULT = ROOT / "benchmarks" / "results" / "vocabulary.json"
TASK = "sst2"
# Of all parameters, the shares that are removed. Four fifths of the parameters of the T5 are in its embedding.
SHARES = {"smollm2": (0.4, 0.6), "t5": (0.1, 0.15)}
OTHERS = ["ffn", "heads"]
GLOBAL: dict[str, Any] = {"method": {"scope": "global"}, "output": {"layout": "per_layer"}}


class Silence:
    """Takes the progress of a job and shows none of it."""

    def stage(self, stage: Stage) -> None: ...

    def advance(self, done: int, total: int, unit: str) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs=2, type=int, default=[400, 400], help="numbers of calibration and test rows")
    parser.add_argument("--quick", action="store_true", help="64 calibration and 64 test rows")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    parser.add_argument("--models", nargs="+", default=["smollm2", "t5"], choices=["smollm2", "t5"])
    options = parser.parse_args()
    calibration, test = (64, 64) if options.quick else options.rows
    figures: dict[str, Any] = {}
    for name in options.models:
        source = SOURCES[name](options.shared.resolve(), Settings().state)
        cases: dict[str, Any] = {}
        figures[name] = {"calibration_rows": calibration, "test_rows": test, "cases": cases}
        for case, found in measured(source, options.shared.resolve() / "data" / TASK, calibration, test, SHARES[name]):
            cases[case] = found
            if not options.quick:
                keep(figures)
    print(json.dumps(figures))


def keep(figures: dict[str, Any]) -> None:
    """Write the figures to RESULT, where those of other models stay."""
    RESULT.write_text(json.dumps(json.loads(RESULT.read_bytes()) | figures, indent=2) + "\n")


def measured(
    source: Source, data: Path, calibration: int, test: int, shares: Sequence[float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, figures) of every case for one model."""
    task = (source.tasks[TASK] if source.tasks else {"preset": TASK}) | {
        "calibration": {"uri": (data / "train.jsonl").as_uri(), "limit": calibration},
        "evaluation": {"uri": (data / "test.jsonl").as_uri(), "limit": test},
    }
    base = {"model": {"uri": source.directory.as_uri(), "adapter_uri": source.adapter and source.adapter.as_uri()}}
    alone = base | {"method": {"units": ["vocabulary"]}}
    with tempfile.TemporaryDirectory(prefix="covered-") as covered:
        rows = Path(covered) / "rows.jsonl"
        own_rows = task | {"evaluation": {"uri": rows.as_uri()}}
        own_texts = alone | {"target": {"ratio": highest_ratio(alone | {"task": task})}}
        found = case_of(own_texts | {"task": task}, partial(write_covered, source, data / "test.jsonl", rows))
        yield "vocabulary", found
        yield "vocabulary, covered test rows", case_of(own_texts | {"task": own_rows})
    with_texts = alone | {"task": task | {"texts": {"uri": (data / "train.jsonl").as_uri()}}}
    ratio = highest_ratio(with_texts)
    yield "vocabulary, all training texts", case_of(with_texts | {"target": {"ratio": ratio}})
    for share in shares:
        for more in ([], ["vocabulary"]):
            method = GLOBAL["method"] | {"units": OTHERS + more}
            target = {"parameters": round(found["parameters_dense"] * (1 - share))}
            fields = base | GLOBAL | {"task": task, "method": method, "target": target}
            yield f"{share:.0%}, {' and '.join(OTHERS + more)}", case_of(fields)


def write_covered(source: Source, test: Path, rows: Path, model: Path) -> None:
    """Write the test rows that the tokenizer of the slim model reads as that of the dense one does."""
    dense, slim = (AutoTokenizer.from_pretrained(directory) for directory in (source.directory, model))
    lines = test.read_text().splitlines(keepends=True)
    texts = (f" {json.loads(line)['text']}\n" for line in lines)
    same = (dense.tokenize(text) == slim.tokenize(text) for text in texts)
    rows.write_text("".join(line for line, is_same in zip(lines, same, strict=True) if is_same))


def case_of(fields: dict[str, Any], use: Callable[[Path], None] = lambda model: None) -> dict[str, Any]:
    """The figures of one job. `use` gets its model."""
    with tempfile.TemporaryDirectory(prefix="vocabulary-") as scratch:
        start = time.monotonic()
        report = run(JobRequest.model_validate(fields), Path(scratch))
        found = figures_of(report) | {"seconds": round(time.monotonic() - start)}
        use(Path(scratch) / "output" / MODEL)
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def highest_ratio(fields: dict[str, Any]) -> float:
    """The share of the vocabulary that no text needs, which the refusal of a higher ratio names."""
    evaluation = fields["task"]["evaluation"] | {"limit": 2}  # no test row decides it
    fields = fields | {"task": fields["task"] | {"evaluation": evaluation}, "target": {"ratio": MAX_RATIO}}
    with tempfile.TemporaryDirectory(prefix="vocabulary-") as scratch:
        try:
            run(JobRequest.model_validate(fields), Path(scratch))
        except TargetUnreachable as error:
            found = re.search(r"a ratio of (0\.\d+):", error.message)
            if found is None:
                raise
            return float(found[1])
    return MAX_RATIO


def run(request: JobRequest, scratch: Path) -> Report:
    """Run a job in this process; its report."""
    storage = Storage((scratch / "artifacts").as_uri())
    job = new_record(request).model_copy(update={"attempt": 1})
    pipeline.run(job, settings=Settings(device="cpu"), storage=storage, progress=Silence(), scratch=scratch)
    return Report.model_validate_json((scratch / "output" / REPORT).read_bytes())


def figures_of(report: Report) -> dict[str, Any]:
    """The figures of a job."""
    result, read = report.result, report.read_tokens
    dense, slim = result.metrics.dense.value, result.metrics.slim.value
    rows = [(each.dense, each.slim) for each in result.widths if each.unit == "vocabulary"]
    return {
        "rows": rows[0] if rows else None,
        "parameters_dense": result.parameters.dense,
        "parameters_slim": result.parameters.slim,
        "removed": round(1 - result.parameters.slim / result.parameters.dense, 4),
        "dense": [dense.value, dense.low, dense.high],
        "slim": [slim.value, slim.low, slim.high],
        "changed_answers": report.num_changed,
        "tokens": None if read is None else read.model_dump(),
    }


if __name__ == "__main__":
    main()
