"""Runs pairs in their runtimes, and compares the logits with those of the masked dense model."""

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.parts.runtimes.environments import ROOT, NotInstallable, installed, run_in
from benchmarks.parts.runtimes.pairs import PLUGIN, WAYS, Pair
from benchmarks.parts.runtimes.slim_models import Case, is_decoder
from service.contract.options import Format
from worker.exports.onnx.files import write_files
from worker.exports.onnx.graphs import FILE

TOLERANCE = 1e-4  # relative to the greatest number that is compared, as for the checkpoint of a job


@dataclass(frozen=True)
class Measurement:
    """What a pair gave. The figures are None where it was not run or failed; then `problem` says why."""

    pair: Pair
    difference: float | None = None  # the greatest, of logits, log-probabilities or probabilities
    holds: bool = False
    megabytes: float | None = None  # of the files that the runtime loads
    tokens_per_second: float | None = None
    dense_tokens_per_second: float | None = None  # of the dense model in the same runtime
    problem: str | None = None
    was_run: bool = True


def measure(pairs: Sequence[Pair], written: Mapping[Case, Path], scratch: Path) -> Iterator[Measurement]:
    """The measurements of the pairs, which are sorted by their way."""
    for name, group in groupby(pairs, key=lambda pair: pair.way):
        these = list(group)
        try:
            _run(name, these, written, scratch)
        except NotInstallable as error:
            yield from (Measurement(pair, problem=str(error), was_run=False) for pair in these)
            continue
        yield from (_measured(pair, written[pair.case], scratch) for pair in these)


def _run(name: str, pairs: Sequence[Pair], written: Mapping[Case, Path], scratch: Path) -> None:
    """Let the runtime answer for the slim model of each pair, and for each dense model that it has not run yet."""
    way, lines = WAYS[name], {}
    for pair in pairs:
        directory = written[pair.case]
        answers = {"slim": _answer(pair, directory), "dense": _dense_answer(pair, scratch)}
        for model, answer in answers.items():
            if _told(answer).exists():
                continue
            file = _written(directory, model, way.format)
            cell: dict[str, Any] = {"model": str(file), "inputs": str(directory / f"{model}.inputs")}
            cell |= {"options": dict(way.options if model == "slim" else way.stock), "answer": str(answer)}
            lines[answer] = json.dumps(cell | {"classifies": not is_decoder(pair.case.family)})
    variables = {"VLLM_PLUGINS": ""}
    if way.plugin:
        variables = {"VLLM_PLUGINS": "taskslim", "PYTHONPATH": str(_plugin(installed(way.environment), scratch))}
    run_in(way.environment, way.runner, [*lines.values()], variables)


def _written(directory: Path, model: str, format: Format | None) -> Path:
    """The checkpoint, or the file of a format that is written of it once."""
    if format is None:
        return directory / model
    written = directory / f"{model}-{format}"
    file, write = FORMATS[format]
    if not written.exists():
        written.mkdir()
        write(directory / model, directory / f"{model}.probe", written)
    return written / file


def _write_onnx(checkpoint: Path, probe: Path, directory: Path) -> None:
    write_files(checkpoint, probe, directory, lambda: None)


# Format -> the name of its file, and a function that writes it of a checkpoint and its probe into a directory.
FORMATS: dict[Format, tuple[str, Callable[[Path, Path, Path], None]]] = {Format.onnx: (FILE, _write_onnx)}


def _answer(pair: Pair, directory: Path) -> Path:
    """Where the runtime writes its answer."""
    return directory / pair.way.replace(" ", "-")


def _told(answer: Path) -> Path:
    """The file beside an answer, with the size and the speed of the model, or with an error."""
    return answer.with_name(f"{answer.name}.json")


def _dense_answer(pair: Pair, scratch: Path) -> Path:
    """The same for the dense model, which all cases of a family share."""
    return scratch / f"dense-{WAYS[pair.way].environment}-{pair.case.family}"


def _plugin(python: Path, scratch: Path) -> Path:
    """A directory with the plugin, installed from a copy: a build leaves files beside the sources."""
    target, copy = scratch / PLUGIN, scratch / "source-of-plugin"
    if not target.exists():
        shutil.copytree(ROOT / "plugins" / "vllm", copy)
        install = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation", "--target"]
        subprocess.run([*install, str(target), str(copy)], check=True, capture_output=True)
    return target


def _measured(pair: Pair, directory: Path, scratch: Path) -> Measurement:
    answer, dense = _answer(pair, directory), _dense_answer(pair, scratch)
    told, told_dense = (json.loads(_told(path).read_bytes()) for path in (answer, dense))
    if "error" in told:
        return Measurement(pair, problem=told["error"])
    difference, greatest = _difference(answer, directory / "slim.expected")
    return Measurement(
        pair,
        difference=difference,
        holds=math.isfinite(difference) and difference <= TOLERANCE * greatest,
        megabytes=told["bytes"] / 1e6,
        tokens_per_second=told["tokens_per_second"],
        dense_tokens_per_second=told_dense.get("tokens_per_second"),
    )


def _difference(answer: Path, expected: Path) -> tuple[float, float]:
    """The greatest difference, and the greatest number that is compared.

    vLLM tells the log-probability of each token at every position but the last, and the probability of each class.
    """
    found, logits = load_file(answer), load_file(expected)["logits"]
    if "log_probabilities" in found:
        told, right = found["log_probabilities"], logits.log_softmax(-1)[:, :-1]
    elif "probabilities" in found:
        told, right = found["probabilities"], logits.softmax(-1)
    else:
        told, right = found["logits"], logits
    if told.shape != right.shape:
        return math.inf, 1.0
    return (told - right).abs().max().item(), right.abs().max().item()
