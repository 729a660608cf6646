"""A model four times as large as the memory: its figures beside those of the same steps without a limit.

    .venv/bin/python benchmarks/streaming.py [--quick] [--repair bias] [--keep DIRECTORY]

The model has the shape of a Llama with 1.7 billion parameters and random weights, bfloat16 in its files. A process
loads it, evaluates it on 8 random rows of 16 tokens, scores feed-forward neurons and heads by `attribution`, fits the
output matrices of the attention layer by layer to the loss of a quarter of the heads, cuts these and a quarter of the
neurons, writes the slim checkpoint and verifies it in another process. With `--repair bias` neurons alone are scored
and cut, and the mean of what they added becomes a bias. Three such processes run one after the other: `plain` without a
limit, `limited` as the plain one in a control group with a quarter of the bytes of the weights in the dtype in which
they are computed, and `streamed` in the same control group. The group counts all of the process and of the one that
verifies: Python, libraries, and the pages of files that are held. `resident` is the most anonymous memory of the
process, sampled every 20 ms. `difference` is the greatest difference between scores of `plain` and `streamed`, relative
to the greatest score of the layer. Needs Linux and the right to make a control group (root). The last line is one JSON
object.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from service.contract.options import Layout
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.dtypes import computing_dtype, round_weights
from worker.checkpoints.loading import LoadedModel, load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import take_probe, verify
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.free_memory import CONTROL_GROUPS
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch, token_scores
from worker.slimming.selection import Rules, select
from worker.slimming.streaming.layers import is_streamed
from worker.slimming.units.groups import Scores
from worker.slimming.units.locating import locate

LLAMA = ARCHITECTURES["llama"]
CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": True,
}
QUICK = {"num_hidden_layers": 6}
# Repair -> the units that are scored and cut; the matrices that read the last of them are repaired.
UNITS = {"bias": ("ffn",), "least_squares_layerwise": ("ffn", "heads")}
ROWS, TOKENS, ROWS_OF_BATCH = 8, 16, 4
PART = 1 / 4  # of the weights' bytes
QUICK_PART = 1 / 2  # Python and its libraries alone take a quarter of the quick model
SAMPLED_SECONDS = 0.02
RATIO = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the layers: at most four minutes")
    parser.add_argument("--keep", type=Path, help="directory of the model, which is written where it is not there")
    parser.add_argument("--repair", choices=sorted(UNITS), default="least_squares_layerwise")
    parser.add_argument("--child", nargs=3, metavar=("MODE", "MODEL", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        mode, model, directory = arguments.child
        found = measure(arguments.repair, Path(model), Path(directory), streams=mode == "streamed")
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with TemporaryDirectory() as name:
        model = arguments.keep or Path(name) / "model"
        if not (model / "config.json").exists():
            write_model(model, SHAPE | (QUICK if arguments.quick else {}))
        print(json.dumps(compare(model, Path(name), QUICK_PART if arguments.quick else PART, arguments.repair)))


def compare(model: Path, directory: Path, part: float, method: str) -> dict[str, Any]:
    """The figures of the three processes."""
    size = weight_bytes(model)
    limit = int(part * size)
    found: dict[str, Any] = {"weights": size, "limit": limit}
    for mode, most in (("plain", None), ("limited", limit), ("streamed", limit)):
        (directory / mode).mkdir()
        found[mode] = in_process(mode, model, directory / mode, most, method)
        print(mode, json.dumps(found[mode]), flush=True)
    plain, streamed = (load_file(directory / mode / "scores.safetensors") for mode in ("plain", "streamed"))
    differences = [(streamed[name] - score_U).abs().max() / score_U.abs().max() for name, score_U in plain.items()]
    return found | {"difference": float(max(differences))}


def weight_bytes(model: Path) -> int:
    """Bytes of the weights in the dtype in which they are computed on this machine."""
    config = LlamaConfig.from_pretrained(model)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters())
    return count * computing_dtype(torch.bfloat16, "cpu", "llama").itemsize


def write_model(directory: Path, shape: dict[str, Any]) -> None:
    """Write a checkpoint with random weights, a file for each layer."""
    directory.mkdir(parents=True)
    config = LlamaConfig(**shape, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in LlamaForCausalLM(config).named_parameters()}
    parts = dict[str, list[str]]()
    for name in shapes:
        parts.setdefault(name.split(".")[2] if ".layers." in name else "outside", []).append(name)
    generator, files = torch.Generator().manual_seed(0), dict[str, str]()
    for number, names in enumerate(parts.values(), 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {name: _random(shapes[name], generator) for name in names}
        save_file(tensors, directory / file, {"format": "pt"})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    words = {f"w{number}": number for number in range(shape["vocab_size"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(directory)
    config.save_pretrained(directory)


def _random(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (0.02 * torch.randn(shape, generator=generator)).bfloat16()


# --- one process ---------------------------------------------------------------------------------------------------


def in_process(mode: str, model: Path, directory: Path, limit: int | None, method: str) -> dict[str, Any]:
    """What a process of its own measures, and the peak of its control group where it has one; its exit code where it
    fails."""
    kind = "streamed" if mode == "streamed" else "plain"
    command = [sys.executable, __file__, "--repair", method, "--child", kind, str(model), str(directory)]
    with control_group(limit) as group:
        entered = (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))) if group else None
        start = perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=entered, check=False)
        seconds = round(perf_counter() - start, 1)
    if done.returncode:
        return {"exit": done.returncode, "seconds": seconds, "error": done.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": seconds}


@contextmanager
def control_group(limit: int | None) -> Iterator[Path | None]:
    """A new control group whose processes take so much memory at most."""
    if limit is None:
        yield None
        return
    known = next((groups for groups in CONTROL_GROUPS if groups.root.joinpath("cgroup.procs").exists()), None)
    if known is None:
        raise SystemExit("this machine has no control groups of memory")
    group = known.root / f"taskslim-{os.getpid()}"
    group.mkdir()
    try:
        (group / known.limit).write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def measure(method: str, directory: Path, scratch: Path, *, streams: bool) -> dict[str, Any]:
    """Seconds of the processor by step, and the peak of the anonymous memory."""
    seconds = dict[str, float]()
    with peak_anonymous() as peak:
        loaded = step(seconds, "load", lambda: load_model(directory, device=CPU, scratch=scratch if streams else None))
        model = loaded.model
        assert is_streamed(model) == streams
        rows = [batch(number, model.config.vocab_size) for number in range(ROWS // ROWS_OF_BATCH)]
        step(seconds, "evaluate", lambda: evaluate(loaded, rows))
        scores = step(seconds, "score", lambda: score_units(loaded, rows, list(UNITS[method])))
        save_file({str(site): score_U for site, score_U in scores.items()}, scratch / "scores.safetensors")
        groups = locate(model, LLAMA, UNITS[method])
        kept = select(scores, groups, RATIO, 8, Rules())
        repaired = {site: kept_K for site, kept_K in kept.items() if site.unit == UNITS[method][-1]}
        fitted = RepairInput(model, LLAMA, repaired, CalibrationBatches(rows, "margin"))
        step(seconds, "repair", lambda: repair(fitted, method))
        round_weights(model, loaded.dtype)
        probe = step(seconds, "probe", lambda: take_probe(loaded, kept, rows[0].inputs))
        probe.write(scratch / "probe.safetensors")
        slim = step(seconds, "cut", lambda: make_slim(loaded, kept, Layout.uniform))
        step(seconds, "save", lambda: save_model(slim, scratch / "slim"))
        start = perf_counter()
        verified = verify(scratch / "slim", scratch / "probe.safetensors")
        seconds["verify"] = round(perf_counter() - start, 1)
    return {"steps": seconds, "resident": peak[0], "logits differ": verified.max_abs_logit_difference}


def step(seconds: dict[str, float], name: str, run: Any) -> Any:
    """The result of a step, whose seconds of the processor are noted."""
    start = process_time()
    result = run()
    seconds[name] = round(process_time() - start, 1)
    print(name, seconds[name], file=sys.stderr, flush=True)
    return result


def evaluate(loaded: LoadedModel, rows: list[Batch]) -> None:
    with torch.no_grad():
        for each in rows:
            token_scores(loaded.model, each)


def score_units(loaded: LoadedModel, rows: list[Batch], units: list[str]) -> Scores:
    return score(loaded.model, LLAMA, units, rows, "attribution", Options(objective="margin")).scores


def batch(seed: int, vocabulary: int) -> Batch:
    """Random rows with two answers of one token each."""
    draw = Random(seed)
    ids = torch.tensor([draw.choices(range(3, vocabulary), k=TOKENS) for _ in range(ROWS_OF_BATCH)])
    rows, mask = torch.arange(ROWS_OF_BATCH), torch.ones_like(ids)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": mask},
        masks={"decoder": mask.bool()},
        example_B=rows,
        row_P=rows,
        position_P=torch.full_like(rows, TOKENS - 1),
        place_M=rows.repeat_interleave(2),
        token_M=torch.tensor([5, 6]).repeat(ROWS_OF_BATCH),
        question_M=rows.repeat_interleave(2),
        label_M=torch.tensor([0, 1]).repeat(ROWS_OF_BATCH),
        right_Q=rows % 2,
        example_Q=rows,
        index_E=rows,
        num_labels=2,
    )


@contextmanager
def peak_anonymous() -> Iterator[list[int]]:
    """The most bytes of anonymous memory that this process has within the context."""
    peak, ended = [0], Event()

    def sample() -> None:
        while not ended.wait(SAMPLED_SECONDS):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            peak[0] = max(peak[0], int(lines["RssAnon"].split()[0]) * 1024)

    thread = Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
