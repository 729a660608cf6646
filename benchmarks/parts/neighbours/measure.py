"""Measures a cell with the functions of the worker: its task, and what else the model can do.

What else it can do is of the T5 the mean metric of its other tasks, of SmolLM2 the perplexity of plain texts.
"""

import copy
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from benchmarks.parts.neighbours.cells import MERGE_RULES, T5_TASKS, Cell
from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.measure import TOKENS_PER_BATCH, Bench, Rows, answered, judge, objective
from service.contract.options import Supervision
from service.contract.request.presets import resolve
from service.contract.request.task import DataSource, Task
from worker.evaluation import answer_scores, judging
from worker.evaluation.answers import Answers
from worker.slimming import selection
from worker.slimming.architectures import architecture_of
from worker.slimming.merging.clusters import cluster, representatives
from worker.slimming.merging.merging import merge
from worker.slimming.merging.router_logits import similarities
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring import attribution, general_rows
from worker.slimming.scoring.criteria import NORM, Options
from worker.slimming.scoring.general_rows import GeneralBatches
from worker.slimming.scoring.multi_task import VOTE, united, voted
from worker.slimming.scoring.objectives import Batch
from worker.slimming.selection import Rules
from worker.slimming.surgery import slicing
from worker.slimming.units.groups import Group, Scores
from worker.slimming.units.locating import locate
from worker.stages.task_model import encode, worded

CALIBRATION_ROWS = 256  # of a task; general rows have as many
TEST_ROWS = 200
TEXTS = "wikitext2"
LM = {"kind": "language_modelling"}


@dataclass(frozen=True)
class Measurement:
    """The figures of one slim model; the half width is that of the metric's 95 % interval."""

    metric: float  # mean over the tasks, as it ships
    half_width: float
    general: float  # mean metric of the other tasks, or token log-likelihood of plain texts
    empty: float | None = None  # share of the generated texts


class Neighbours:
    """Measures cells. Models and rows are loaded at their first use."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.texts = cache(self._texts)
        self.task_scores = cache(self._task_scores)

    def measure(self, cell: Cell) -> Measurement:
        """The figures of a cell."""
        model = copy.deepcopy(self.bench.loaded(cell.model).model)
        if cell.method != "dense":
            (self._remove_experts if cell.part == "experts" else self._slim)(model, cell)
        found = [
            judge(model, self.rows(cell.model, task, _split(cell)), self.rows(cell.model, task)) for task in cell.tasks
        ]
        values = [each.value for each in found if each.value is not None]
        half_widths = [(value.high - value.low) / 2 for value in values]
        half_width = sum(half**2 for half in half_widths) ** 0.5 / len(values)
        return Measurement(
            metric=round(fmean(value.value for value in values), 4),
            half_width=round(half_width, 4),
            general=round(self._general_ability(model, cell), 4),
        )

    def _slim(self, model: Any, cell: Cell) -> None:
        architecture = architecture_of(model)
        units, layout = (["ffn"], "uniform") if cell.part.startswith("selectivity") else (["ffn", "heads"], "per_layer")
        units = [unit for unit in units if unit in self.bench.loaded(cell.model).family.units]
        groups = locate(model, architecture, units)
        rules = Rules("layer" if layout == "uniform" else "global", layout)
        batches = self._calibration(model, cell, units)
        scores = self._scores(model, cell, units, groups, rules, batches)
        kept = selection.select(scores, groups, cell.ratio, 1, rules)
        if cell.repair != "none":
            rows = self.rows(cell.model, cell.tasks[0])
            repair(RepairInput(model, architecture, kept, CalibrationBatches(batches, objective(rows))), cell.repair)
        slicing.cut(model, architecture, kept, layout)

    def _remove_experts(self, model: Any, cell: Cell) -> None:
        architecture, rows = architecture_of(model), self.rows(cell.model, cell.tasks[0])
        groups = locate(model, architecture, ["experts"])
        rule = cell.method.removeprefix("merge ")
        criterion = "frequency" if rule in MERGE_RULES else cell.method
        options = Options(objective=objective(rows), seed=cell.seed)
        scores = attribution.score(model, architecture, ["experts"], rows.batches, criterion, options).scores
        kept = selection.select(scores, groups, cell.ratio, 1, Rules("layer", "uniform"))
        if rule in MERGE_RULES:
            similar = similarities(model, groups, rows.batches, lambda done: None)
            clusters = {site: cluster(similar[site], scores[site], kept_K.numel()) for site, kept_K in kept.items()}
            merge(model, groups, clusters, scores, rows.batches, rule)
            kept = {site: representatives(found, scores[site]).sort().values for site, found in clusters.items()}
        slicing.cut(model, architecture, kept, "uniform")

    def _calibration(self, model: Any, cell: Cell, units: list[str]) -> list[Batch]:
        """The batches that scores and repair are fitted on."""
        rows = [self.rows(cell.model, task) for task in cell.tasks]
        batches = [batch for each in rows for batch in each.batches]
        if cell.method in ("own answers", "entropy"):
            batches = answered(model, batches)
        if cell.part == "dial":
            general = self._general_batches(cell)
            return general_rows.mixture(model, architecture_of(model), units, batches, general, objective(rows[0]))
        return batches

    def _scores(
        self, model: Any, cell: Cell, units: list[str], groups: list[Group], rules: Rules, batches: list[Batch]
    ) -> Scores:
        score = (model, architecture_of(model), units)
        goal = objective(self.rows(cell.model, cell.tasks[0]))
        if cell.part.startswith("selectivity"):
            return self._selectivity(cell, units)
        if cell.part == "supervision":
            goal = "entropy" if cell.method == "entropy" else goal
            criterion = "attribution" if cell.repair == "none" else "surgeon"
            return attribution.score(*score, batches, criterion, Options(objective=goal)).scores
        if cell.part == "union":
            each = [self.task_scores(cell.model, task, tuple(units)) for task in cell.tasks]
            return voted(each, groups, rules) if cell.method == VOTE else united(each, cell.method)
        if cell.method == "mixture":
            return attribution.score(*score, batches, "surgeon", Options(objective=goal)).scores
        general, own = self._general_batches(cell), self.rows(cell.model, cell.tasks[0]).batches
        scores, other_scores, norms, other_norms = (
            attribution.score(*score, rows, criterion, Options(objective=name)).scores
            for criterion in ("surgeon", NORM)
            for rows, name in ((own, goal), (general.batches, general.objective))
        )
        return general_rows.shared_exclusive(scores, other_scores, norms, other_norms, cell.weight)

    def _selectivity(self, cell: Cell, units: list[str]) -> Scores:
        model = self.bench.loaded(cell.model).model
        score = (model, architecture_of(model), units)
        if cell.method == "random":
            return attribution.score(*score, (), "random", Options(seed=cell.seed)).scores
        form = cell.method.partition(" ")[2] or "difference"
        own, general = self.rows(cell.model, cell.tasks[0]).batches, self.texts(cell.model, "train").batches
        options = Options(selectivity=form)
        found = attribution.score(*score, own, "selectivity", options, general=general).scores
        return {site: -score_U for site, score_U in found.items()} if cell.method == "reverse" else found

    def _task_scores(self, model: str, task: str, units: tuple[str, ...]) -> Scores:
        dense, rows = self.bench.loaded(model).model, self.rows(model, task)
        options = Options(objective=objective(rows))
        return attribution.score(dense, architecture_of(dense), units, rows.batches, "surgeon", options).scores

    def _general_batches(self, cell: Cell) -> GeneralBatches:
        others = self._others(cell)
        batches = [batch for rows in others for batch in rows.batches]
        return GeneralBatches(batches, objective(others[0]), cell.weight)

    def _others(self, cell: Cell) -> list[Rows]:
        """The calibration rows of what else the model can do."""
        if cell.model == "smollm2":
            return [self.texts(cell.model, "train")]
        count = CALIBRATION_ROWS // (len(T5_TASKS) - 1)
        return [self.rows(cell.model, task, count=count) for task in T5_TASKS if task not in cell.tasks]

    def _general_ability(self, model: Any, cell: Cell) -> float:
        if cell.model == "smollm2":
            rows = self.texts(cell.model, _split(cell))
            answers = Answers(answer_scores.score(model, rows.batches, lambda done: None))
            metric = rows.wording.task.metric
            assert metric is not None
            found = judging.judge(metric, answers, rows.examples, Supervision.labels)
            assert found.token_log_likelihood is not None
            return found.token_log_likelihood
        if cell.part != "dial":
            return 0.0
        others = [task for task in T5_TASKS if task not in cell.tasks]
        found_each = [judge(model, self.rows(cell.model, task, "test"), self.rows(cell.model, task)) for task in others]
        return fmean(each.value.value for each in found_each if each.value is not None)

    def rows(self, model: str, task: str, split: str = "train", count: int = 0) -> Rows:
        """Rows of a task as tokens."""
        number = count or (CALIBRATION_ROWS if split == "train" else TEST_ROWS)
        return self.bench.examples(model, task, split, number, 0, "natural", "labels")

    def _texts(self, model: str, split: str) -> Rows:
        """Plain texts, a quarter as many as rows of a task: they are longer."""
        directory = self.bench.rows / TEXTS
        source = DataSource(uri=(directory / "train.jsonl").resolve().as_uri())
        wording, padding = worded(self.bench.loaded(model), resolve(Task(calibration=source, **LM)), None)
        rows = inputs.rows(directory, split, CALIBRATION_ROWS // 4, 0, "natural")
        found = encode(rows, "task.evaluation", wording, padding, TOKENS_PER_BATCH)
        return Rows(found.examples, found.batches, wording, padding)


def _split(cell: Cell) -> str:
    """The rows that judge the cell."""
    return "dev" if cell.part == "selectivity dev" else "test"
