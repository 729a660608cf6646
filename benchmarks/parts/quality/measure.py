"""Measures a cell with the functions of the worker: rows, scores, selection, repair, cut and accuracy.

Shape suffixes: E examples, N tokens, C channels of a consumer's input, O of its output, U units of a group.
"""

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.cells import BLOCKS, CALIBRATION_ROWS, DENSE, TIMED, VARIANTS, Cell
from benchmarks.parts.quality.inputs import Source
from benchmarks.parts.quality.kinds import as_read
from benchmarks.parts.quality.measurement import Measurement, rounded
from benchmarks.parts.quality.shared_pass import Method, score_together
from service.contract.options import Supervision, TaskKind
from service.contract.request.method import OBJECTIVES
from service.models.families.family import ModelFamily
from service.rows.labels import with_named_labels
from worker.checkpoints.loading import LoadedModel, count_parameters, load_model
from worker.data.batching import Padding
from worker.data.examples import Example
from worker.data.wordings import Wording
from worker.evaluation import answer_scores, generation, judging, similarities
from worker.evaluation.answers import Answers
from worker.slimming import selection
from worker.slimming.architectures import architecture_of
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import FITTED, repair
from worker.slimming.scoring import attribution, iterative
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import Batch, candidate_scores, token_scores
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.selection import Rules
from worker.slimming.surgery import slicing
from worker.slimming.units.groups import Kept, Scores, Site
from worker.slimming.units.locating import locate
from worker.stages.task_model import encode, fitted, worded

TOKENS_PER_BATCH = 1024
GENERATED_TOKENS_PER_BATCH = 8192  # no gradients; each step of a chunk reads all weights once
TIMED_RUNS = 3
ROUND_TO = {"uniform": 64, "per_layer": 1}

# Method -> criterion and options.
METHODS: dict[str, Method] = {name: (name, Options()) for name in CRITERIA} | {
    name: (criterion, Options(**options)) for name, (criterion, options) in VARIANTS.items()
}
SHARED = ("surgeon", "attribution", "second_moment", "activation", "wanda", "flap")  # scored in one pass


class Rows(NamedTuple):
    """Rows of a task as tokens, and in batches."""

    examples: list[Example]
    batches: list[Batch]
    wording: Wording
    padding: Padding


@dataclass(frozen=True)
class Pass:
    """The results of one pass over calibration rows."""

    scores: Mapping[str, Scores]
    moments: dict[str, Moments]
    seconds: float


class Bench:
    """Models and rows, loaded at their first use. Scores are stored in files and reused by later runs."""

    def __init__(self, sources: dict[str, Source], rows: Path, scratch: Path) -> None:
        self.sources = sources
        self.rows = rows
        self.scratch = scratch
        self.loaded = cache(self._loaded)
        self.examples = cache(self._examples)
        self.passed = lru_cache(maxsize=2)(self._passed)

    def measure(self, cell: Cell) -> Measurement:
        """The figures of a cell."""
        if cell.split == TIMED:
            return Measurement(seconds=round(self._timed(cell), 3))
        judged = self.examples(cell.model, cell.task, cell.split, cell.rows, 0, "natural", "labels")
        offset_rows = self.examples(*_offset_rows(cell))
        if cell.method == DENSE:
            return judge(self.loaded(cell.model).model, judged, offset_rows)
        kept, start = self.kept(cell), time.perf_counter()
        model = copy.deepcopy(self.loaded(cell.model).model)
        self.cut(model, cell, kept)
        seconds = round(time.perf_counter() - start, 2)
        removed = round(self._removed(cell, kept), 4)
        return replace(judge(model, judged, offset_rows), removed=removed, seconds_to_cut=seconds)

    def kept(self, cell: Cell) -> Kept:
        """The units that stay; with several steps, the scores are measured again before each step."""
        model = self.loaded(cell.model).model
        architecture = architecture_of(model)
        groups = locate(model, architecture, cell.units)
        rules = Rules("global", cell.layout, CRITERIA[METHODS[cell.method][0]].normalisation)

        def choose(scores: Scores, ratio: float) -> Kept:
            return selection.select(scores, groups, ratio, ROUND_TO[cell.layout], rules)

        if cell.steps == 1:
            return choose(self.scores(cell), cell.ratio)
        ratios = iterative.schedule(cell.ratio, cell.steps)
        path = iterative.follow(model, architecture, ratios, lambda: self._score(cell), choose)
        return choose(path.at(cell.ratio), cell.ratio)

    def cut(self, model: Any, cell: Cell, kept: Kept) -> None:
        """Repair and cut the model with the cell's repair, ratio and layout."""
        architecture = architecture_of(model)
        if cell.repair != "none":
            rows = self.examples(*_calibration_rows(cell))
            calibration = CalibrationBatches(rows.batches, objective(rows))
            moments = self.passed(*_calibration(cell)).moments if cell.repair in FITTED else None
            repair(RepairInput(model, architecture, kept, calibration, moments), cell.repair)
        slicing.cut(model, architecture, kept, cell.layout)

    def _removed(self, cell: Cell, kept: Kept) -> float:
        model = self.loaded(cell.model).model
        groups = locate(model, architecture_of(model), cell.units)
        gone = sum((group.count - kept[group.site].numel()) * group.parameters for group in groups)
        return gone / sum(group.count * group.parameters for group in groups)

    def scores(self, cell: Cell) -> Scores:
        """The scores of all units by the cell's method."""
        if cell.method in SHARED:
            return self.passed(*_calibration(cell)).scores[cell.method]
        path = self._file(cell, cell.method)
        if not path.exists():
            save_file({str(site): score_U for site, score_U in self._score(cell).items()}, path)
        return {Site.parse(key): score_U for key, score_U in load_file(path).items()}

    def _score(self, cell: Cell) -> Scores:
        model, (criterion, options) = self.loaded(cell.model).model, METHODS[cell.method]
        batches = self.batches(*_calibration_rows(cell)) if CRITERIA[criterion].needs != "weights" else []
        options = replace(options, seed=cell.seed)
        if batches and options.objective == Options().objective:
            options = replace(options, objective=objective(self.examples(*_calibration_rows(cell))))
        architecture = architecture_of(model)
        return attribution.score(
            model, architecture, blocks(self.loaded(cell.model).family), batches, criterion, options
        ).scores

    def _timed(self, cell: Cell) -> float:
        """Median time in seconds to score all units; for DENSE, of a forward pass of the same rows."""
        model, batches = (
            self.loaded(cell.model).model,
            self.batches(*_calibration_rows(replace(cell, calibration=cell.task))),
        )
        times = []
        for _ in range(TIMED_RUNS + 1):
            start = time.perf_counter()
            if cell.method == DENSE:
                answer_scores.score(model, batches, lambda done: None)
            else:
                self._score(cell)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])  # without the first, which is a warm-up

    def _passed(self, *calibration: Any) -> Pass:
        path = self._path("pass", *calibration)
        if path.exists():
            return _read(path)
        model = self.loaded(calibration[0]).model
        rows = self.examples(calibration[0], calibration[1], "train", *calibration[2:])
        family = self.loaded(calibration[0]).family
        options = {name: replace(METHODS[name][1], objective=objective(rows)) for name in SHARED}
        start = time.perf_counter()
        scores, moments = score_together(
            model,
            architecture_of(model),
            blocks(family),
            rows.batches,
            {name: (METHODS[name][0], options[name]) for name in SHARED},
        )
        result = Pass(scores, moments, time.perf_counter() - start)
        _write(result, path)
        return result

    def _file(self, cell: Cell, what: str) -> Path:
        return self._path(what, *_calibration(cell))

    def _path(self, *parts: Any) -> Path:
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / f"{'-'.join(map(str, parts))}.safetensors"

    def _loaded(self, name: str) -> LoadedModel:
        source = self.sources[name]
        return load_model(source.directory, device=torch.device("cpu"), adapter=source.adapter)

    def batches(self, *rows: Any) -> list[Batch]:
        """The batches of `examples`."""
        return self.examples(*rows).batches

    def _examples(self, model: str, task: str, split: str, count: int, seed: int, draw: str, supervision: str) -> Rows:
        loaded = self.loaded(model)
        wording, padding = worded(loaded, inputs.task(self.sources[model], task, self.rows), None)
        rows = as_read(task, inputs.rows(self.rows / task, split, count, seed, draw))
        param = "task.calibration" if split == "train" else "task.evaluation"
        found = encode(with_named_labels(rows, wording.task), param, wording, padding, TOKENS_PER_BATCH)
        batches = found.batches if supervision == "labels" else answered(loaded.model, found.batches)
        return Rows(found.examples, batches, wording, padding)


def answered(model: Any, batches: list[Batch]) -> list[Batch]:
    """The batches with the labels that the model gives the highest probability in place of the right ones."""
    with torch.no_grad():
        answers = [candidate_scores(token_scores(model, batch), batch).argmax(dim=1) for batch in batches]
    return [replace(batch, right_Q=answer_E) for batch, answer_E in zip(batches, answers, strict=True)]


def blocks(family: ModelFamily) -> list[str]:
    """The kinds of units that the cells remove, as far as models of the family can lose them."""
    return [unit for unit in BLOCKS if unit in family.units]


def objective(rows: Rows) -> str:
    """The objective that tasks of the kind of these rows have by default."""
    return OBJECTIVES[rows.wording.task.kind or TaskKind.classification][0]


def judge(model: Any, rows: Rows, offset_rows: Rows) -> Measurement:
    """The metric on `rows` with 95 % intervals; of labels with and without offsets, fitted on `offset_rows`."""
    start, task = time.perf_counter(), rows.wording.task
    assert task.metric is not None, "the task is resolved"
    answers = Answers(answer_scores.score(model, rows.batches, lambda done: None))
    if task.labels:
        fitting = Answers(answer_scores.score(model, offset_rows.batches, lambda done: None))
        answers = replace(answers, offset_L=fitted(fitting))
    if task.kind is TaskKind.generation:
        texts = generation.generate(
            model, rows.examples, rows.wording, rows.padding, GENERATED_TOKENS_PER_BATCH, lambda done: None
        )
        answers = replace(answers, texts=texts)
    if task.kind is TaskKind.embedding:
        answers = replace(answers, scores=similarities.as_answers(answers.scores, task.metric))
    found = judging.judge(task.metric, answers, rows.examples, Supervision.labels)
    return Measurement(
        judged=found.examples,
        metric=task.metric.value,
        value=rounded(found.value),
        raw=rounded(found.raw) if found.raw else None,
        majority=None if found.majority is None else round(found.majority, 4),
        parameters=count_parameters(model),
        seconds_to_judge=round(time.perf_counter() - start, 2),
    )


def _offset_rows(cell: Cell) -> tuple[str, str, str, int, int, str, str]:
    """The calibration rows that label offsets are fitted on; for the dense model, those of its task."""
    if cell.method == DENSE:
        cell = replace(cell, calibration=cell.task, examples=CALIBRATION_ROWS)
    return _calibration_rows(cell)


def _calibration(cell: Cell) -> tuple[str, str, int, int, str, str]:
    """What the scores and moments depend on, apart from the method."""
    seed = 0 if cell.method == "random" else cell.seed
    return cell.model, cell.calibration, cell.examples, seed, cell.draw, cell.supervision


def _calibration_rows(cell: Cell) -> tuple[str, str, str, int, int, str, str]:
    model, task, count, seed, draw, supervision = _calibration(cell)
    return model, task, "train", count, seed, draw, supervision


def _write(result: Pass, path: Path) -> None:
    tensors: dict[str, Tensor] = {"seconds": torch.tensor(result.seconds)}
    for name, scores in result.scores.items():
        tensors |= {f"score {name} {site}": score_U for site, score_U in scores.items()}
    for consumer, moments in result.moments.items():
        assert moments.gram_CC is not None
        tensors |= {
            f"gram {consumer}": moments.gram_CC,
            f"origin {consumer}": moments.origin_C,
            f"sum {consumer}": moments.sum_C,
            f"counts {consumer}": torch.tensor([moments.centred, moments.num_tokens, moments.weight]).double(),
            f"weights {consumer}": torch.cat(moments.weights_N),
            f"sizes {consumer}": torch.tensor([weight_N.numel() for weight_N in moments.weights_N]),
        }
    save_file(tensors, path)


def _read(path: Path) -> Pass:
    tensors = load_file(path)
    scores: dict[str, dict[Site, Tensor]] = {}
    for _, name, site in (key.split() for key in tensors if key.startswith("score ")):
        scores.setdefault(name, {})[Site.parse(site)] = tensors[f"score {name} {site}"]
    consumers = [key.removeprefix("gram ") for key in tensors if key.startswith("gram ")]
    return Pass(
        scores, {consumer: _read_moments(tensors, consumer) for consumer in consumers}, tensors["seconds"].item()
    )


def _read_moments(tensors: dict[str, Tensor], consumer: str) -> Moments:
    centred, num_tokens, weight = tensors[f"counts {consumer}"].tolist()
    return Moments(
        centred=bool(centred),
        num_tokens=int(num_tokens),
        weight=weight,
        origin_C=tensors[f"origin {consumer}"],
        sum_C=tensors[f"sum {consumer}"],
        gram_CC=tensors[f"gram {consumer}"],
        effect_OO=None,
        weights_N=list(tensors[f"weights {consumer}"].split(tensors[f"sizes {consumer}"].tolist())),
    )
