"""A whole job on a random model of a given shape: seconds of each stage, and the peak memory of the device.

    .venv/bin/python benchmarks/large_job.py [--shape 135M | 1.7B | 8B] [--device auto | cpu | cuda] [--rows N]

The model is a Llama with random weights in bfloat16 and words as tokens. Half of its feed-forward neurons are removed
with the default criterion and repair, by 256 random calibration rows of 64 words; the slim checkpoint is verified in a
process of its own and stored in a directory. `seconds` begin when the job starts, with the model's files on disk and
the libraries imported, and end when the manifest is stored; `stages` are those of the report. The metric means nothing
here. The last line is one JSON object.
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.streaming import write_model
from service.contract.answers.job import Stage
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.object_store import Storage
from worker import pipeline
from worker.stages.task_model import device

VOCABULARY, WORDS = 32000, 60
SHAPES: dict[str, dict[str, int]] = {  # hidden size, FFN width, layers, heads, key-value heads
    "tiny": {"hidden": 256, "width": 1024, "layers": 4, "heads": 8, "key_value_heads": 4},
    "135M": {"hidden": 576, "width": 1536, "layers": 30, "heads": 9, "key_value_heads": 3},
    "1.7B": {"hidden": 2048, "width": 8192, "layers": 24, "heads": 32, "key_value_heads": 32},
    "8B": {"hidden": 4096, "width": 14336, "layers": 32, "heads": 32, "key_value_heads": 8},
}


class Stages:
    """Notes when each stage begins."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []

    def stage(self, stage: Stage) -> None:
        self.begun.append((stage.value, perf_counter()))

    def advance(self, done: int, total: int, unit: str) -> None:
        """The counts within a stage are not needed."""

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds until the next one began, or until now."""
        ends = [start for _, start in self.begun[1:]] + [perf_counter()]
        return {name: round(end - start, 2) for (name, start), end in zip(self.begun, ends, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="135M")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=256, help="calibration rows; there are half as many to evaluate")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="large-job-") as directory:
        root = Path(directory)
        write_model(root / "model", config_of(SHAPES[options.shape]))
        found = run(root, options.device, options.rows)
    print(json.dumps({"shape": options.shape, "rows": options.rows} | found))


def config_of(shape: dict[str, int]) -> dict[str, Any]:
    """The fields of a Llama's config."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["width"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["key_value_heads"],
        "tie_word_embeddings": False,
    }


def run(root: Path, name: str, rows: int) -> dict[str, Any]:
    """Run the job on the model in `root`, and return its figures."""
    request = JobRequest.model_validate(
        {
            "model": {"uri": (root / "model").as_uri()},
            "task": {
                "template": "{text} w9",
                "labels": {"0": "w5", "1": "w6"},
                "calibration": {"uri": write_rows(root / "calibration.jsonl", rows)},
                "evaluation": {"uri": write_rows(root / "evaluation.jsonl", rows // 2)},
            },
            "target": {"ratio": 0.5},
        }
    )
    (root / "scratch").mkdir()
    stages, chosen = Stages(), device(name)
    start = perf_counter()
    result = pipeline.run(
        new_record(request),
        settings=Settings(state=root, device=name),
        storage=Storage((root / "artifacts").as_uri()),
        progress=stages,
        scratch=root / "scratch",
    )
    seconds = perf_counter() - start
    on_gpu = chosen.type == "cuda"
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": torch.cuda.get_device_name(chosen) if on_gpu else "cpu",
        "seconds": round(seconds, 1),
        "stages": stages.seconds(),
        "parameters": [result.parameters.dense, result.parameters.slim],
        "logits_differ": result.verified.max_abs_logit_difference,
        "peak_gib": round((torch.cuda.max_memory_allocated(chosen) if on_gpu else host) / 2**30, 2),
        "host_peak_gib": round(host / 2**30, 2),
    }


def write_rows(path: Path, count: int) -> str:
    """Write random rows; the URI of the file."""
    draw = Random(path.name)
    lines = [
        json.dumps(
            {"text": " ".join(f"w{draw.randrange(10, VOCABULARY)}" for _ in range(WORDS)), "label": str(row % 2)}
        )
        for row in range(count)
    ]
    path.write_text("\n".join(lines))
    return path.as_uri()


if __name__ == "__main__":
    main()
