"""The cost of scoring and of the default method compared with their floor: a forward and a backward pass.

    .venv/bin/python benchmarks/attribution.py [--quick] [--device cpu | cuda]

The floor computes the logits of the same tokens and the gradients of the same activations, without hooks.
`time_over_floor` is that of the criterion `attribution`, `default_time_over_floor` that of the default criterion with
its repair at half the neurons. `stock_ratio` compares with the same passes when the logits of all positions are
computed, as in a plain loop. On a CPU all are timed on one thread, by the processor time of the process, so that
other load has little effect; on a GPU by the clock, when the device has finished. The passes over one batch are timed
in turn on every batch: a figure is the sum over batches of the median over repetitions. The default method reads all
batches at once, and is timed in turn with the floor of all. `memory_over_floor` compares the peak memory of
`attribution` with that of the floor, the model included, each in a process of its own; on a GPU what torch has
allocated there. The last line is one JSON object.

Shape suffixes: B rows of a batch, T positions, V vocabulary entries, and E, M and P as in
worker/slimming/scoring/objectives.py.
"""

import argparse
import json
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality.inputs import smollm2_checkpoint
from service.settings import Settings
from worker.checkpoints.loading import load_model
from worker.slimming import selection
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch, margin, token_scores
from worker.slimming.selection import Rules
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.slimming.units.locating import locate

LLAMA = ARCHITECTURES["llama"]
ROWS = 16
CALIBRATION_ROWS = 256  # of the default method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches and repetitions: at most four minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    quick, device = options.quick, torch.device(options.device)
    torch.set_num_threads(1)
    lengths, repetitions = ((32, 64), 5) if quick else ((16, 32, 64, 128, 256), 11)
    model = _model(device)
    batches = [batch(length, model.config.vocab_size).to(device) for length in lengths]
    seconds = timed(model, batches, repetitions)
    rows = ROWS if quick else CALIBRATION_ROWS
    calibration = [batch(64, model.config.vocab_size).to(device) for _ in range(rows // ROWS)]
    whole = timed_default(model, calibration, 1 if quick else 3)
    for name, value in (seconds | {f"{rows} rows, {name}": value for name, value in whole.items()}).items():
        print(f"{name:>24}  {value:8.3f} s  {value / (whole if 'rows' in name else seconds)['floor']:5.2f}x")
    peaks = {name: peak_memory(name, lengths[-1], device) for name in ("floor", "attribution")}
    print(json.dumps(figures(seconds, batches, model) | default_figures(whole, rows) | memory_figures(peaks)))


def _model(device: torch.device) -> PreTrainedModel:
    return load_model(smollm2_checkpoint(Settings().state), device=device).model


def now(device: torch.device) -> float:
    """Seconds: of the processor on a CPU; on a GPU of a clock, once the device has done its work."""
    if device.type == "cpu":
        return process_time()
    torch.cuda.synchronize(device)
    return perf_counter()


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


def timed(model: PreTrainedModel, batches: list[Batch], repetitions: int) -> dict[str, float]:
    """Name of a pass -> seconds for all batches, as of `now`."""
    passes: dict[str, Callable[[Batch], object]] = {
        "floor": lambda item: backward(model, item, token_scores),
        "attribution": lambda item: score(model, LLAMA, ["ffn"], [item], "attribution", Options()),
        "stock": lambda item: backward(model, item, stock_log_probabilities),
    }
    clock: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in passes}
    for repetition in range(repetitions + 1):
        for index, item in enumerate(batches):
            for name, run in passes.items():
                start = now(model.device)
                run(item)
                if repetition:  # the first one is a warm-up
                    clock[name][index].append(now(model.device) - start)
    return {name: sum(median(times) for times in per_batch) for name, per_batch in clock.items()}


def timed_default(model: PreTrainedModel, batches: list[Batch], repetitions: int) -> dict[str, float]:
    """Part of the default method at half the neurons, or its floor -> median seconds, as of `now`."""
    clock: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        start = now(model.device)
        found = run(*arguments)
        clock.setdefault(name, []).append(now(model.device) - start)
        return found

    for _ in range(repetitions):
        timed("floor", _floor, model, batches)
        slim = copy_sharing_tensors(model)
        scored = timed("scoring", score, slim, LLAMA, ["ffn"], batches, "surgeon", Options())
        kept = selection.select(scored.scores, locate(slim, LLAMA, ["ffn"]), 0.5, 1, Rules())
        calibration = CalibrationBatches(batches, Options().objective)
        repair_input = RepairInput(slim, LLAMA, kept, calibration, scored.moments)
        timed("repair", repair, repair_input, "least_squares_layerwise")
    return {name: median(times) for name, times in clock.items()}


def _floor(model: nn.Module, batches: list[Batch]) -> None:
    for item in batches:
        backward(model, item, token_scores)


def peak_memory(name: str, length: int, device: torch.device) -> int:
    """Peak bytes of a process that runs one pass over one batch, the model included."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (name, length, device))


def _peak_memory(name: str, length: int, device: torch.device) -> int:
    torch.set_num_threads(1)
    model = _model(device)
    item = batch(length, model.config.vocab_size).to(device)
    if name == "floor":
        backward(model, item, token_scores)
    else:
        score(model, LLAMA, ["ffn"], [item], name, Options())
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
    """Those of the passes over one batch."""
    tokens = int(sum(item.masks["decoder"].sum() for item in batches))
    return {
        "time_over_floor": round(seconds["attribution"] / seconds["floor"], 3),
        "stock_ratio": round(seconds["attribution"] / seconds["stock"], 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds["attribution"]),
        "dtype": str(next(model.parameters()).dtype),
    }


def default_figures(seconds: dict[str, float], rows: int) -> dict[str, Any]:
    """Those of the default method."""
    scoring, whole = seconds["scoring"], seconds["scoring"] + seconds["repair"]
    return {
        "default_rows": rows,
        "default_scoring_over_floor": round(scoring / seconds["floor"], 2),
        "default_time_over_floor": round(whole / seconds["floor"], 2),
    }


def memory_figures(peaks: dict[str, int]) -> dict[str, Any]:
    """The quotient of the peaks, in bytes."""
    return {"memory_over_floor": round(peaks["attribution"] / peaks["floor"], 3)}


if __name__ == "__main__":
    main()
