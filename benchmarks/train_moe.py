"""Trains a mixture of experts on several tasks from random weights: a small Mixtral with 16 experts in each layer.

    .venv/bin/python benchmarks/train_moe.py OUTPUT [--quick] [--epochs 8] [--seed 0]

Rows and the tokenizer are read from `--data`, a directory with data/ and models/t5-multitask-tiny. A checkpoint, its
tokenizer and templates.json are written to OUTPUT. It took 14 minutes with two fifths of a core. `--quick` trains a
tiny configuration for a few steps, as a test. The last line is one JSON object: test accuracy by task.

The tasks are learnt from few rows and lean little on single experts: most models that keep a quarter of the experts,
chosen at random, answer as well. It shows faults of a cut or a merge, and does not tell criteria apart.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerBase
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.train_t5 import Example, encoded, rate

# The tasks that a model of this size learns from 2,000 rows.
TASKS = ("sst2", "ag_news", "trec", "subj")
MAX_WORDS = 25
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "small": {"hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4},
}
EXPERTS, PER_TOKEN = 16, 2
PEAK_RATE = 2e-3
BALANCE = 0.02  # weight of the loss that spreads the tokens over the experts


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.data / "models" / "t5-multitask-tiny")
    tasks, limit = templates(arguments.data), 64 if arguments.quick else None
    train = {name: prompts(arguments.data, name, task, "train", tokenizer, limit) for name, task in tasks.items()}
    model = built("tiny" if arguments.quick else "small", tokenizer)
    fit(model, [example for rows in train.values() for example in rows], arguments)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    (arguments.output / "templates.json").write_text(json.dumps(tasks, indent=2) + "\n")
    test = {name: prompts(arguments.data, name, task, "test", tokenizer, limit) for name, task in tasks.items()}
    print(json.dumps({name: round(accuracy(model, rows, arguments.batch), 4) for name, rows in test.items()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--epochs", type=int, default=8)
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
        name: {"template": f"{name} : {{text}} ?", "labels": tasks[name]["labels"], "max_words": MAX_WORDS}
        for name in TASKS
    }


def prompts(
    data: Path, name: str, task: dict[str, Any], split: str, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> list[Example]:
    """The examples of one split. A decoder reads no token behind its prompt, and answers with one token."""
    found = encoded(data, name, task, split, tokenizer, limit)
    return [Example(each.prompt[:-1], each.answer[:1], each.rivals) for each in found]


def built(size: str, tokenizer: PreTrainedTokenizerBase) -> MixtralForCausalLM:
    """A model with random weights."""
    settings: dict[str, Any] = {
        **SIZES[size],
        "num_key_value_heads": SIZES[size]["num_attention_heads"],
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": PER_TOKEN,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "tie_word_embeddings": True,
        "router_aux_loss_coef": BALANCE,
    }
    return MixtralForCausalLM(MixtralConfig(**settings))


def fit(model: MixtralForCausalLM, examples: Sequence[Example], arguments: argparse.Namespace) -> None:
    """Train on the answers with AdamW, a warm-up and a linear decay."""
    steps = arguments.epochs * -(-len(examples) // arguments.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    model.train()
    draw = random.Random(arguments.seed)
    for epoch in range(arguments.epochs):
        total = 0.0
        for inputs, last, answer in batches(draw.sample(examples, len(examples)), arguments.batch):
            output = model.model(**inputs, output_router_logits=True)
            balance = load_balancing_loss_func(output.router_logits, EXPERTS, PER_TOKEN, inputs["attention_mask"])
            found = answer_logits(model, output.last_hidden_state, last)
            loss = torch.nn.functional.cross_entropy(found, answer) + BALANCE * balance
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(last)
        print(f"epoch {epoch + 1}/{arguments.epochs}: loss {total / len(examples):.3f}", flush=True)
    model.eval()


def answer_logits(model: MixtralForCausalLM, hidden: Tensor, last: Tensor) -> Tensor:
    """The logits behind the last token of each prompt; those of all tokens would take most of the time."""
    logits: Tensor = model.lm_head(hidden[torch.arange(len(last)), last])
    return logits


def batches(examples: Sequence[Example], size: int) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """(inputs, place of the last token of each prompt, answers) of consecutive examples."""
    for start in range(0, len(examples), size):
        chunk = examples[start : start + size]
        longest = max(len(each.prompt) for each in chunk)
        tokens = torch.tensor([each.prompt + [0] * (longest - len(each.prompt)) for each in chunk])
        lengths = torch.tensor([len(each.prompt) for each in chunk])
        mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()
        answers = torch.tensor([each.answer[0] for each in chunk])
        yield {"input_ids": tokens, "attention_mask": mask}, lengths - 1, answers


def accuracy(model: MixtralForCausalLM, examples: Sequence[Example], size: int) -> float:
    """The share of examples for which the right answer has the highest logit of all answers of the task."""
    right, rivals = 0, torch.tensor(examples[0].rivals)
    with torch.inference_mode():
        for inputs, last, answers in batches(examples, size):
            found = answer_logits(model, model.model(**inputs).last_hidden_state, last)
            right += int((rivals[found[:, rivals].argmax(1)] == answers).sum())
    return right / len(examples)


if __name__ == "__main__":
    main()
