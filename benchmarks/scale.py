"""How the cost of scoring grows, and what a second worker gains.

    .venv/bin/python benchmarks/scale.py [--quick]

Random Llamas. One size at a time is varied: the width of the feed-forward blocks, layers, rows, and the length of rows.
Measured are the three parts of scoring: `attribution`, one pass with gradients; `moments`, the same with the second
moments that `surgeon` needs; and `elimination`, the removal of all units by `surgeon`. The slopes of the logarithms are
printed beside those of operations and bytes, as `parts/scale/operations.py` counts them. Then models of the shapes of
SmolLM2-135M (--quick: this one alone), SmolLM2-360M and TinyLlama, and with CUDA that of an 8B Llama 3. Last, one job
on one worker and the same in two shards on two workers. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch

from benchmarks.parts.scale import two_workers
from benchmarks.parts.scale.exponents import AXES, exponents
from benchmarks.parts.scale.measure import PARTS, Cost, as_json, in_a_process
from benchmarks.parts.scale.operations import memory
from benchmarks.parts.scale.shapes import ON_GPU, SHAPES, Shape
from worker.slimming.free_memory import free_bytes

RESULT = ROOT / "benchmarks" / "results" / "scale.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three sizes of each, one shape, and 256 rows for the workers"
    )
    options = parser.parse_args()
    found = {name: vary(name, sizes.quick if options.quick else sizes.full) for name, sizes in AXES.items()}
    shapes = {name: of_shape(name, shape) for name, shape in SHAPES.items() if not options.quick or name == "135M"}
    rows = 256 if options.quick else 2048
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        workers = two_workers.run(Path(directory), rows)
    for name, value in workers.items():
        print(f"{name:36} {value}", flush=True)
    figures = {"exponents": found, "shapes": shapes, "rows": rows, **workers}
    if not options.quick:
        RESULT.write_text(json.dumps(figures | {"load": os.getloadavg()}, indent=2) + "\n")
    print(json.dumps(figures))


def vary(name: str, sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """The exponents of one size, printed beside the expected ones."""
    shapes = [Shape().with_(**{name: size}) for size in sizes]
    costs = [in_a_process(shape) for shape in shapes]
    found = exponents(sizes, shapes, costs)
    print(f"{name} {', '.join(map(str, sizes))}")
    for part, mine in found.items():
        seconds = ", ".join(f"{cost.parts[part].seconds:.2f}" for cost in costs)
        peaks = ", ".join(f"{cost.parts[part].peak_bytes / 2**20:.0f}" for cost in costs)
        print(f"  {part:12} seconds {seconds}: exponent {mine.seconds:.2f}, expected {mine.expected_seconds:.2f}")
        print(f"  {'':12} MiB {peaks}: exponent {mine.memory:.2f}, expected {mine.expected_memory:.2f}", flush=True)
    return {part: mine.rounded for part, mine in found.items()}


def of_shape(name: str, shape: Shape) -> dict[str, Any]:
    """The cost for one of SHAPES; the elimination is that of one layer. Says what is missing where there is no room."""
    on_gpu = name in ON_GPU
    if on_gpu and not torch.cuda.is_available():
        cost = Cost(missing="not measured: there is no CUDA device")
    else:
        parts = PARTS if on_gpu or needed(shape) < free_bytes(torch.device("cpu")) else PARTS[:1]
        cost = in_a_process(shape, parts, gpu=on_gpu, layers=1)
        if len(parts) < len(PARTS):
            cost.missing = f"moments and elimination: they need {needed(shape) / 2**30:.0f} GiB of memory"
    for part, values in cost.parts.items():
        print(f"{name:5} {part:12} {values.seconds:8.2f} s {values.peak_bytes / 2**20:8.0f} MiB", flush=True)
    if cost.missing:
        print(f"{name:5} {cost.missing}", flush=True)
    return as_json(cost)


def needed(shape: Shape) -> float:
    """Bytes of the largest part on a CPU, with some room."""
    return 2**30 + 1.2 * max(memory(shape, part) for part in PARTS)


if __name__ == "__main__":
    main()
