"""The time of attribution compared with its floor: a forward and a backward pass of the same batches.

    .venv/bin/python benchmarks/attribution.py [--quick]

The floor computes the logits of the same tokens and the gradients of the same activations, without hooks.
`stock_ratio` compares with the same passes when the logits of all positions are computed, as in a plain loop. The three
are timed in turn on every batch, on one thread, by the processor time of the process, so that other load has little
effect; a figure is the sum over batches of the median over repetitions. The last line is one JSON object.

Shape suffixes: B rows of a batch, T positions, V vocabulary entries, and E, M and P as in
worker/slimming/scoring/objectives.py.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.quality_bench.inputs import smollm2_checkpoint
from service.settings import Settings
from worker.checkpoints.loading import load_model
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch, margin, token_scores
from worker.slimming.units import locate

LLAMA = ARCHITECTURES["llama"]
ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches and repetitions: at most four minutes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    lengths, repetitions = ((32, 64), 5) if quick else ((16, 32, 64, 128, 256), 11)
    model = load_model(smollm2_checkpoint(Settings().state), device=torch.device("cpu")).model
    batches = [batch(length, model.config.vocab_size) for length in lengths]
    seconds = timed(model, batches, repetitions)
    for name, value in seconds.items():
        print(f"{name:>12}  {value:8.3f} s  {value / seconds['floor']:5.2f}x")
    print(json.dumps(figures(seconds, batches, model)))


def batch(length: int, vocabulary: int) -> Batch:
    """Random prompts of at most `length` tokens, with two answers of one token each."""
    draw = Random(length)
    sizes = [draw.randint(length * 7 // 8, length) for _ in range(ROWS)]
    mask_BT = torch.arange(length) < torch.tensor(sizes)[:, None]
    ids_BT = torch.tensor([[draw.randrange(vocabulary) for _ in range(length)] for _ in range(ROWS)])
    rows, twice = torch.arange(ROWS), torch.arange(ROWS).repeat_interleave(2)
    return Batch(
        inputs={"input_ids": ids_BT * mask_BT, "attention_mask": mask_BT.long()},
        masks={"decoder": mask_BT},
        example_B=rows,
        row_P=rows,
        position_P=torch.tensor(sizes) - 1,
        place_M=twice,
        token_M=torch.tensor([1000, 2000]).repeat(ROWS),
        question_M=twice,
        label_M=torch.tensor([0, 1]).repeat(ROWS),
        right_Q=rows % 2,
        example_Q=rows,
        index_E=rows,
        num_labels=2,
    )


def timed(model: nn.Module, batches: list[Batch], repetitions: int) -> dict[str, float]:
    """Name of a pass -> processor time in seconds for all batches."""
    passes: dict[str, Callable[[Batch], object]] = {
        "floor": lambda item: backward(model, item, token_scores),
        "attribution": lambda item: score(model, LLAMA, ["ffn"], [item], "attribution", Options()),
        "stock": lambda item: backward(model, item, stock_log_probabilities),
    }
    clock: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in passes}
    for repetition in range(repetitions + 1):
        for index, item in enumerate(batches):
            for name, run in passes.items():
                start = process_time()
                run(item)
                if repetition:  # the first one is a warm-up
                    clock[name][index].append(process_time() - start)
    return {name: sum(median(times) for times in per_batch) for name, per_batch in clock.items()}


def backward(model: nn.Module, item: Batch, log_probabilities: Callable[[nn.Module, Batch], Tensor]) -> None:
    """A forward pass, and a backward pass to the first activation whose gradient attribution needs."""
    with first_activation_as_leaf(model):
        torch.autograd.backward(margin(log_probabilities(model, item), item).sum())


@contextmanager
def first_activation_as_leaf(model: nn.Module) -> Iterator[None]:
    contract = model.get_submodule(locate(model, LLAMA, ["ffn"])[0].module)
    handle = contract.register_forward_pre_hook(lambda _, args: (args[0].detach().requires_grad_(),))
    try:
        yield
    finally:
        handle.remove()


def stock_log_probabilities(model: nn.Module, item: Batch) -> Tensor:
    """The result of `token_scores`, from the logits of all positions."""
    log_probability_PV = model(**item.inputs).logits[item.row_P, item.position_P].float().log_softmax(-1)
    result: Tensor = log_probability_PV[item.place_M, item.token_M]
    return result


def figures(seconds: dict[str, float], batches: list[Batch], model: nn.Module) -> dict[str, Any]:
    tokens = int(sum(item.masks["decoder"].sum() for item in batches))
    return {
        "ratio": round(seconds["attribution"] / seconds["floor"], 3),
        "stock_ratio": round(seconds["attribution"] / seconds["stock"], 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds["attribution"]),
        "dtype": str(next(model.parameters()).dtype),
    }


if __name__ == "__main__":
    main()
