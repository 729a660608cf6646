"""Trains a T5 on several tasks from random weights, with the architecture of the small T5 of the tests.

    .venv/bin/python benchmarks/train_t5.py OUTPUT [--quick] [--size small|large] [--epochs 12] [--seed 0]

Rows, templates and the tokenizer are read from `--data`, a directory with data/ and models/t5-multitask-tiny. A
checkpoint, its tokenizer and templates.json are written to OUTPUT. Training is on a GPU if there is one. `--quick`
trains a tiny configuration for a few steps, as a test. The last line is one JSON object: test accuracy by task.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from service.rows.row import Row
from service.rows.words import first_words
from service.storage.row_formats import read_file
from worker.data.prompts import render

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 1},
    "small": {"d_model": 256, "d_ff": 768, "d_kv": 32, "num_heads": 8, "num_layers": 4},
    "large": {"d_model": 512, "d_ff": 1408, "d_kv": 64, "num_heads": 8, "num_layers": 8},
}
PEAK_RATE = 1e-3
WARM_UP = 0.05  # of all steps
MAX_PROMPT_TOKENS = 160
PAIR_WORDS, SINGLE_WORDS = 60, 80


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, as tokens; `rivals` are the first tokens of the task's answers."""

    prompt: list[int]
    answer: list[int]
    rivals: list[int]


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fixture = arguments.data / "models" / "t5-multitask-tiny"
    tokenizer = AutoTokenizer.from_pretrained(fixture)
    tasks = templates(arguments.data)
    limit = 64 if arguments.quick else None
    train = {name: encoded(arguments.data, name, task, "train", tokenizer, limit) for name, task in tasks.items()}
    model = built("tiny" if arguments.quick else arguments.size, tokenizer)
    nn.Module.to(model, device)
    fit(model, [example for rows in train.values() for example in rows], arguments)
    save(model, tokenizer, tasks, arguments.output)
    test = {name: encoded(arguments.data, name, task, "test", tokenizer, limit) for name, task in tasks.items()}
    print(json.dumps({name: round(accuracy(model, rows, arguments.batch), 4) for name, rows in test.items()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs = 1
    return arguments


def templates(data: Path) -> dict[str, dict[str, Any]]:
    """The wording of every task. The prompt starts with the name of the task, by which the model distinguishes them."""
    tasks = json.loads((data / "data" / "templates.json").read_text())
    return {
        name: {
            "template": f"{name} : {{text}} [SEP] {{text_b}}"
            if "{text_b}" in task["template"]
            else f"{name} : {{text}}",
            "labels": task["labels"],
            "max_words": PAIR_WORDS if "{text_b}" in task["template"] else SINGLE_WORDS,
        }
        for name, task in tasks.items()
    }


def encoded(
    data: Path, name: str, task: dict[str, Any], split: str, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> list[Example]:
    """The examples of one split."""
    answers = {label: _ids(tokenizer, word, special=False) for label, word in task["labels"].items()}
    rivals = [ids[0] for ids in answers.values()]
    assert len(set(rivals)) == len(rivals), f"two answers of {name} have the same first token"
    return [
        Example(
            _ids(tokenizer, _prompt(row, task), special=True)[:MAX_PROMPT_TOKENS],
            [*answers[row.text("label")], tokenizer.sep_token_id],
            rivals,
        )
        for row in read_file(data / "data" / name / f"{split}.jsonl")[:limit]
    ]


def _prompt(row: Row, task: dict[str, Any]) -> str:
    columns = [column for column in ("text", "text_b") if column in row.values]
    return render(task["template"], {column: first_words(row.text(column), task["max_words"]) for column in columns})


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def built(size: str, tokenizer: PreTrainedTokenizerBase) -> T5ForConditionalGeneration:
    """A model with random weights: gated GELU, tied embeddings."""
    settings: dict[str, Any] = {
        **SIZES[size],
        "num_decoder_layers": SIZES[size]["num_layers"],
        "vocab_size": len(tokenizer),
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    return T5ForConditionalGeneration(T5Config(**settings))


def fit(model: T5ForConditionalGeneration, examples: Sequence[Example], arguments: argparse.Namespace) -> None:
    """Train with AdamW, a warm-up and a linear decay; float32 weights, on a GPU with bfloat16 autocast."""
    steps = arguments.epochs * -(-len(examples) // arguments.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    model.train()
    draw = random.Random(arguments.seed)
    for epoch in range(arguments.epochs):
        total = 0.0
        for inputs in batches(draw.sample(examples, len(examples)), arguments.batch, model.device):
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.device.type == "cuda"):
                loss = model(**inputs).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{arguments.epochs}: loss {total * arguments.batch / len(examples):.3f}", flush=True)
    model.eval()


def rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def batches(examples: Sequence[Example], size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches of consecutive examples, padded; padding of the labels is -100, which the loss ignores."""
    for start in range(0, len(examples), size):
        chunk = examples[start : start + size]
        prompts, labels = _padded([e.prompt for e in chunk], 0), _padded([e.answer for e in chunk], -100)
        inputs = {"input_ids": prompts, "attention_mask": (prompts != 0).long(), "labels": labels}
        yield {name: tensor.to(device) for name, tensor in inputs.items()}


def _padded(rows: Sequence[list[int]], pad: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


def accuracy(model: T5ForConditionalGeneration, examples: Sequence[Example], size: int) -> float:
    """The share of examples for which the first token of the right answer has the highest logit of all answers."""
    right, rivals = 0, torch.tensor(examples[0].rivals, device=model.device)
    with torch.inference_mode():
        for inputs in batches(examples, size, model.device):
            chosen = rivals[model(**inputs).logits[:, 0, rivals].argmax(1)]
            right += int((chosen == inputs["labels"][:, 0]).sum())
    return right / len(examples)


def save(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, dict[str, Any]],
    directory: Path,
) -> None:
    """Write the checkpoint in bfloat16, the tokenizer and the wordings of the tasks."""
    rounded = T5ForConditionalGeneration(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "templates.json").write_text(json.dumps(tasks, indent=2) + "\n")


if __name__ == "__main__":
    main()
