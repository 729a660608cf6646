"""Trains the LoRA adapter of the demo: three small tasks with rows that were written for this repository.

    .venv/bin/python benchmarks/train_demo_adapter.py OUTPUT [--held-out] [--epochs 2] [--rank 4] [--rate 2e-3]

The adapter is trained on the calibration rows of all tasks of `service/cli/demo` and written to OUTPUT in float16. The
model without and with it is judged on the evaluation rows, which are never trained on. `--held-out` trains on four
fifths of the calibration rows and judges on the others, to compare options. The defaults were not compared with others.
The last line is one JSON object: task -> accuracy of the model without and with the adapter, with label offsets, and
its 95 % interval. It takes seven minutes of one core, of which the training takes five.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.measure import TOKENS_PER_BATCH, Rows, judge
from benchmarks.parts.quality.training import Recipe, fit, lesson
from service.cli.demo.request import WORDINGS, read_rows
from service.contract.request.presets import LABEL_COLUMN, resolve
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.settings import Settings
from worker.checkpoints.loading import LoadedModel, load_model
from worker.data.sampling import set_aside
from worker.stages.task_model import encode, worded

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
RowsByTask = Mapping[str, list[Row]]


def main() -> None:
    arguments = parse()
    base = inputs.smollm2_checkpoint(Settings().state)
    trained_on, judged_on = divided(arguments.held_out)
    train(base, trained_on, arguments)
    figures = {
        name: accuracies(load_model(base, device=torch.device("cpu"), adapter=adapter), trained_on, judged_on)
        for name, adapter in (("without", None), ("with", arguments.output))
    }
    print(json.dumps({task: {name: found[task] for name, found in figures.items()} for task in WORDINGS}))


def divided(held_out: bool) -> tuple[RowsByTask, RowsByTask]:
    """(rows to train on, rows to judge on) of each task."""
    calibration = {task: rows_of(task, "calibration") for task in WORDINGS}
    if not held_out:
        return calibration, {task: rows_of(task, "evaluation") for task in WORDINGS}
    parts = {task: set_aside(rows, LABEL_COLUMN, seed=0) for task, rows in calibration.items()}
    return {task: part[0] for task, part in parts.items()}, {task: part[1] for task, part in parts.items()}


def rows_of(task: str, part: str) -> list[Row]:
    return [Row(dict(values), line) for line, values in enumerate(read_rows(task, part), start=1)]


def train(base: Path, rows: RowsByTask, arguments: argparse.Namespace) -> None:
    """Write the adapter of the rows."""
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lessons = [lesson(task, resolve(WORDINGS[task]), rows[task], model, tokenizer, "causal") for task in WORDINGS]
    rank = arguments.rank
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES, task_type="CAUSAL_LM")
    )
    fit(adapted, lessons, Recipe(arguments.rate, arguments.epochs, tokens_per_batch=256, seed=arguments.seed))
    adapted.to(torch.float16).save_pretrained(arguments.output)
    path = arguments.output / "adapter_config.json"
    described = json.loads(path.read_text()) | {"base_model_name_or_path": BASE}  # in place of a path of this machine
    path.write_text(json.dumps(described, indent=2) + "\n")


def accuracies(loaded: LoadedModel, offsets: RowsByTask, judged: RowsByTask) -> dict[str, list[float]]:
    """Task -> accuracy on its judged rows with the ends of its interval. Label offsets are fitted on the other rows."""
    found = {}
    for task, wording in WORDINGS.items():
        asked, padding = worded(loaded, resolve(wording), None)
        parts = []
        for rows in (judged[task], offsets[task]):
            read = encode(with_named_labels(rows, asked.task), "task.evaluation", asked, padding, TOKENS_PER_BATCH)
            parts.append(Rows(read.examples, read.batches, asked, padding))
        value = judge(loaded.model, *parts).value
        assert value is not None, "rows with labels are judged"
        found[task] = [value.value, value.low, value.high]
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
