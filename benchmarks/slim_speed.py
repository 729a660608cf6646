"""How much of the ideal speed-up a slim decoder has: prefill and decode at batch 1, 8 and 64, in both layouts.

    .venv/bin/python benchmarks/slim_speed.py [--quick] [--rounds 5]

Half of the feed-forward and attention parameters of a random Llama are removed, by the code of a job: with the layout
`uniform` half in each layer, with `per_layer` between a quarter and three quarters. The dense model and both slim ones
run in turns, in one thread; the time is that of the thread, without that of other programs on the machine. The ideal
speed-up of prefill is the ratio of the floating-point operations, as PyTorch counts them; that of decode is the ratio
of the bytes of the weights and of the keys and values, all of which a step reads.

The last line is one JSON object. `share_of_ideal` is the least share of the ideal speed-up over stages, batch sizes and
layouts: the ratio of the medians of the rounds, divided by the ideal. Its quartiles are those of the same cell over the
rounds.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from benchmarks.parts.runtimes.slim_models import kept_units
from service.contract.options import Layout, Unit
from tests.support import checkpoints
from tests.support.tiny_models import changed
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import load_model
from worker.data.batching import Padding, padding
from worker.evaluation.generation_speed import Seconds, run
from worker.evaluation.memory import weight_bytes

UNITS = (Unit.ffn, Unit.heads)
BATCHES = (1, 8, 64)
STAGES = ("prefill", "decode")
DENSE = "dense"
# Layers as wide as those of a model with a billion parameters, and fewer of them.
ATTENTION = {"hidden_size": 1536, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 96}
FULL: dict[str, Any] = ATTENTION | {"intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 8192}
QUICK: dict[str, Any] = FULL | {"num_hidden_layers": 2, "vocab_size": 4096}
PROMPT_TOKENS, NEW_TOKENS = 16, 9


@dataclass(frozen=True)
class Cell:
    """One stage of one batch size: its seconds in each round and its ideal speed-up, by model."""

    stage: str
    batch: int
    seconds: dict[str, list[float]]
    ideal: dict[str, float]

    def speed_up(self, name: str) -> float:
        """Median seconds of the dense model, divided by those of a slim one."""
        return statistics.median(self.seconds[DENSE]) / statistics.median(self.seconds[name])

    def share(self, name: str) -> float:
        """The share of the ideal speed-up that a slim model has."""
        return self.speed_up(name) / self.ideal[name]

    def quartiles(self, name: str) -> list[float]:
        """The first and third quartile of that share over the rounds."""
        pairs = zip(self.seconds[DENSE], self.seconds[name], strict=True)
        shares = [dense / slim / self.ideal[name] for dense, slim in pairs]
        first, _, third = statistics.quantiles(shares, n=4, method="inclusive")
        return [round(first, 3), round(third, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half of the layers, and three rounds")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = options.rounds or (3 if options.quick else 5)
    with tempfile.TemporaryDirectory() as directory:
        found, padded = models(Path(directory), QUICK if options.quick else FULL)
    cells = [cell for batch in BATCHES for cell in measure(found, padded, batch, rounds)]
    print_table(cells)
    print(json.dumps(figures(cells, found[DENSE], rounds)))


def models(directory: Path, config: dict[str, Any]) -> tuple[dict[str, PreTrainedModel], Padding]:
    """(the dense model and one of each layout, the padding of their inputs)."""
    changed("llama", **config).save_pretrained(directory)
    checkpoints.tokenizer("causal").save_pretrained(directory)
    layers = config["num_hidden_layers"]
    slopes = [0.25 + 0.5 * layer / (layers - 1) for layer in range(layers)]
    loaded = load_model(directory, device=torch.device("cpu"))
    found = {DENSE: loaded.model}
    for layout, shares in {Layout.uniform: [0.5] * layers, Layout.per_layer: slopes}.items():
        whole = load_model(directory, device=torch.device("cpu"))
        found[layout.value] = make_slim(whole, kept_units(whole.model, UNITS, shares), layout).model
    return found, padding(loaded.model, loaded.tokenizer, "causal")


def measure(found: dict[str, PreTrainedModel], padded: Padding, batch: int, rounds: int) -> Iterator[Cell]:
    """Both stages of one batch size; the first round warms up."""
    prompts = [tuple(range(10, 10 + PROMPT_TOKENS))] * batch
    runs: list[dict[str, Seconds]] = [
        {name: run(model, prompts, padded, NEW_TOKENS, time.thread_time) for name, model in found.items()}
        for _ in range(rounds + 1)
    ]
    costs = {"prefill": num_operations, "decode": num_bytes}
    for stage in STAGES:
        seconds = {name: [getattr(each[name], stage) for each in runs[1:]] for name in found}
        cost = {name: costs[stage](model, batch) for name, model in found.items()}
        yield Cell(stage, batch, seconds, {name: cost[DENSE] / cost[name] for name in found})


def num_operations(model: PreTrainedModel, batch: int) -> int:
    """Floating-point operations of prefill."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.full((batch, PROMPT_TOKENS), 10), use_cache=True, logits_to_keep=1)
    return int(counter.get_total_flops())


def num_bytes(model: PreTrainedModel, batch: int) -> int:
    """Bytes that a step of decode reads: the weights, and the keys and values in the middle of the text."""
    with torch.inference_mode():
        cache = model(input_ids=torch.full((1, PROMPT_TOKENS + NEW_TOKENS // 2), 10), use_cache=True).past_key_values
    cached: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return weight_bytes(model) + batch * cached


def print_table(cells: Sequence[Cell]) -> None:
    """Print the cells as Markdown."""
    print("| stage | batch | layout | dense tokens/s | slim tokens/s | speed-up | ideal | share (quartiles) |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for cell in cells:
        tokens = cell.batch * (PROMPT_TOKENS if cell.stage == "prefill" else NEW_TOKENS - 1)
        dense, *slim = [tokens / statistics.median(seconds) for seconds in cell.seconds.values()]
        for name, rate in zip((Layout.uniform.value, Layout.per_layer.value), slim, strict=True):
            low, high = cell.quartiles(name)
            share = f"{cell.share(name):.2f} ({low:.2f} to {high:.2f})"
            print(
                f"| {cell.stage} | {cell.batch} | {name} | {dense:.0f} | {rate:.0f} | {cell.speed_up(name):.2f} "
                f"| {cell.ideal[name]:.2f} | {share} |"
            )


def figures(cells: Sequence[Cell], dense: PreTrainedModel, rounds: int) -> dict[str, Any]:
    """The figures of the last line."""
    layouts = (Layout.uniform.value, Layout.per_layer.value)
    least, name = min(((cell, name) for cell in cells for name in layouts), key=lambda pair: pair[0].share(pair[1]))
    return {
        "share_of_ideal": round(least.share(name), 3),
        "share_of_ideal_quartiles": least.quartiles(name),
        "least_cell": [least.stage, least.batch, name],
        "share_of_ideal_median": round(statistics.median(c.share(n) for c in cells for n in layouts), 3),
        "parameters": sum(parameter.numel() for parameter in dense.parameters()),
        "rounds": rounds,
        "machine": f"{platform.machine()}, {psutil.cpu_count(logical=False)} cores, one thread, float32",
        "load": round(psutil.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
