"""Trains a LoRA adapter for the benchmark's generation tasks and its conversations, on SmolLM2-135M-Instruct.

    .venv/bin/python benchmarks/train_adapter.py OUTPUT [--tasks snips_frames e2e_nlg chat_intent] [--quick] [--seed 0]

The train rows of each task are read from `--data`, a directory with data/; the 400 dev rows of the benchmark are left
out. The adapter is written to OUTPUT. `--quick` trains on 16 rows of each task, as a test. The last line is one JSON
object: the metric on test rows by task. It is trained for one epoch, on two cores in about half an hour.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.cells import WRITTEN_TASKS, dense
from benchmarks.parts.quality.inputs import Source
from benchmarks.parts.quality.kinds import WORDINGS
from benchmarks.parts.quality.measure import Bench
from benchmarks.parts.quality.training import Recipe, fit, lesson
from service.settings import Settings

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE, EPOCHS, RANK = 1e-3, 1, 16
QUICK_ROWS, JUDGED_ROWS = 16, 200


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    data, base = arguments.data / "data", inputs.smollm2_checkpoint(Settings().state)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lessons = [
        lesson(
            name,
            inputs.task(Source(base, tasks=WORDINGS), name, data),
            inputs.rows(data / name, "train", QUICK_ROWS if arguments.quick else 0, 0, "natural"),
            model,
            tokenizer,
            "causal",
        )
        for name in arguments.tasks
    ]
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES))
    fit(adapted, lessons, Recipe(RATE, 1 if arguments.quick else EPOCHS, seed=arguments.seed))
    adapted.save_pretrained(arguments.output)
    bench = Bench({"adapted": Source(base, arguments.output, WORDINGS)}, data, arguments.output / "scratch")
    rows = 4 if arguments.quick else JUDGED_ROWS
    found = {name: bench.measure(dense("adapted", name, rows=rows)).value for name in arguments.tasks}
    print(json.dumps({name: value.value for name, value in found.items() if value is not None}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(WRITTEN_TASKS), choices=list(WRITTEN_TASKS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    return parser.parse_args()


if __name__ == "__main__":
    main()
