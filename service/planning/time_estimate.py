"""How long the stages of past jobs took, and what that says of the next one.

Redis: `slim:durations`, the newest runs first, as JSON.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, cast

from redis import Redis

from service.contract.catalog import TimeEstimate
from service.contract.errors import NotFound
from service.contract.fields import EVALUATION_SHARE
from service.contract.job import Stage
from service.contract.options import Repair
from service.contract.report import Report
from service.contract.request import JobRequest
from service.contract.task import DataSource, Task
from service.sources.access import DATASET, Access
from service.sources.readers import LOCAL, scheme_of
from service.storage.keys import dataset_key

DURATIONS = "slim:durations"
MAX_RUNS = 200
MAX_READ_BYTES = 16 * 2**20  # of a file whose rows are counted while a client waits

# Stages that pass rows through the model; all others go by the size of the model alone.
CALIBRATING = frozenset({Stage.attribute, Stage.repair})
EVALUATING = frozenset({Stage.evaluate_dense, Stage.evaluate_slim})
REPAIRING = frozenset({Stage.repair, Stage.search, Stage.controls})
SEARCHED = frozenset({Stage.select, Stage.repair, Stage.slice})  # what a search does in one
# Without one of these in past runs nothing is said of a job that has them.
TELLING = frozenset({Stage.evaluate_dense, Stage.attribute, Stage.search, Stage.repair, Stage.controls})
FITTED_ANEW = frozenset({Repair.least_squares_layerwise})  # repairs that pass rows through every model of a search
SEARCH_LOOKS = 7  # models that a bisection over hundredths measures


@dataclass(frozen=True)
class Work:
    """What decides how long a job takes."""

    family: str
    parameters: int
    calibration_rows: int
    evaluation_rows: int
    steps: int
    criterion: str
    repair: str
    search: str = ""  # what models are measured for before it is known which one meets the target
    models: int = 0  # about how many of them
    reported_rows: int | None = None  # of the evaluation rows, where a search keeps the others
    controls: bool = False

    def amount(self, stage: str) -> float:
        """Seconds of a stage are taken to be proportional to this: parameters, times rows that pass through them."""
        if stage == Stage.search:
            fitted = self.calibration_rows * (1 + (self.models if self.repair in FITTED_ANEW else 0))
            return float(self.parameters * (fitted + self.models * self.evaluation_rows))
        if stage == Stage.controls:
            return float(self.parameters * (self.calibration_rows + self.evaluation_rows))
        if stage == Stage.evaluate_slim and self.reported_rows is not None:
            return float(self.parameters * self.reported_rows)
        if stage in EVALUATING:
            return float(self.parameters * self.evaluation_rows)
        if stage in CALIBRATING:
            return float(self.parameters * self.calibration_rows * (self.steps if stage == Stage.attribute else 1))
        return float(self.parameters)


@dataclass(frozen=True)
class Run:
    """A job that succeeded; `seconds` has the stages that really ran."""

    work: Work
    seconds: dict[str, float]


class Durations:
    """The runs of all tenants: of them nothing but counts and times is kept."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def record(self, report: Report) -> None:
        """Add a job that succeeded."""
        run = asdict(Run(work_of(report), seconds_of(report)))
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(DURATIONS, json.dumps(run))
            pipe.ltrim(DURATIONS, 0, MAX_RUNS - 1)
            pipe.execute()

    def runs(self) -> list[Run]:
        """The newest ones first."""
        found = map(json.loads, cast(list[str], self._redis.lrange(DURATIONS, 0, -1)))
        return [Run(_known(entry["work"]), entry["seconds"]) for entry in found]

    def estimate(self, work: Work, skipped: Iterable[str] = ()) -> TimeEstimate | None:
        """How long `work` may take without the `skipped` stages; None without runs to judge by."""
        return estimate(self.runs(), work, skipped)


def _known(work: dict[str, Any]) -> Work:
    """Another version may have counted other things."""
    names = {field.name for field in fields(Work)}
    return Work(**{name: value for name, value in work.items() if name in names})


def estimate(runs: Sequence[Run], work: Work, skipped: Iterable[str] = ()) -> TimeEstimate | None:
    """Sum over the stages of amount * median pace. Runs of the same family count, all where there are none.

    Attribution has the pace of the same criterion, a search that of the same target, whatever repairs that of the same
    repair, where that ever ran. None where no run had a stage that matters.
    """
    alike = [run for run in runs if run.work.family == work.family] or list(runs)
    known = {stage for run in alike for stage in run.seconds}
    absent = set(skipped) | (SEARCHED if work.search else {Stage.search})
    absent |= {Stage.repair} if work.repair == Repair.none else set()
    absent |= set() if work.controls else {Stage.controls}
    if not alike or TELLING - absent - known:
        return None
    seconds = sum(work.amount(stage) * _pace(alike, stage, work) for stage in known - absent)
    return TimeEstimate(seconds=round(seconds, 1), runs=len(alike))


def _pace(runs: Sequence[Run], stage: str, work: Work) -> float:
    ran = [run for run in runs if stage in run.seconds]
    if stage == Stage.attribute:
        ran = [run for run in ran if run.work.criterion == work.criterion] or ran
    if stage == Stage.search:
        ran = [run for run in ran if run.work.search == work.search] or ran
    if stage in REPAIRING:
        ran = [run for run in ran if run.work.repair == work.repair] or ran
    return median(run.seconds[stage] / run.work.amount(stage) for run in ran)


def work_of(report: Report) -> Work:
    """What a job that succeeded had to do."""
    parameters, evaluated = report.result.parameters.dense, report.result.metrics.dense.examples
    if report.result.kept_metric is not None:
        evaluated *= 2  # half of the rows, give or take one, have steered the search and are not in the metrics
    return _work(report.family, parameters, report.calibration_examples, evaluated, report.request)


def seconds_of(report: Report) -> dict[str, float]:
    """Stage -> seconds, of the stages that did not take their outcome from an earlier job."""
    reused = {Stage.attribute: report.result.scores_reused, Stage.evaluate_dense: report.result.evaluation_reused}
    return {timing.stage: timing.seconds for timing in report.timings if not reused.get(timing.stage, False)}


def planned_work(request: JobRequest, family: str, parameters: int, access: Access) -> Work | None:
    """What a request would have to do; None where its rows cannot be counted quickly."""
    counted = [_rows(task, access) for task in request.slimmed_for]
    known = [rows for rows in counted if rows is not None]
    if len(known) < len(counted):
        return None
    calibration, evaluation = (sum(rows[part] for rows in known) for part in (0, 1))
    return _work(family, parameters, calibration, evaluation, request)


def _rows(task: Task, access: Access) -> tuple[int, int] | None:
    """Rows to calibrate and to evaluate on."""
    calibration = _count(task.calibration, access)
    evaluation = _count(task.evaluation, access) if task.evaluation else None
    if calibration is None or (task.evaluation and evaluation is None):
        return None
    if evaluation is None:
        evaluation = -(-calibration // EVALUATION_SHARE)
        calibration -= evaluation
    return calibration, evaluation


def _work(family: str, parameters: int, calibration: int, evaluation: int, request: JobRequest) -> Work:
    method, target = request.method, request.target
    searched = [name for name in ("latency_ms", "keep_metric", "sweep") if getattr(target, name) is not None]
    return Work(
        family=family,
        parameters=parameters,
        calibration_rows=calibration,
        evaluation_rows=evaluation,
        steps=method.steps,
        criterion=method.criterion.value,
        repair=method.repair.value,
        search="+".join(searched),
        models=len(target.sweep or ()) or SEARCH_LOOKS * len(searched),
        reported_rows=evaluation // 2 if target.keep_metric is not None else None,
        controls=method.controls,
    )


def _count(source: DataSource, access: Access) -> int | None:
    """Rows of a source; of a file that is not JSON Lines, or large, or far away, only where a limit says them."""
    counted = len(source.rows) if source.rows is not None else _lines(source.uri or "", access)
    known = [count for count in (counted, source.limit) if count is not None]
    return min(known, default=None)


def _lines(uri: str, access: Access) -> int | None:
    try:
        if scheme_of(uri) == DATASET:
            key = dataset_key(access.tenant, uri.removeprefix("dataset://"))
            if access.storage.stat(key).size <= MAX_READ_BYTES:
                return access.storage.get_bytes(key).count(b"\n")
        if scheme_of(uri) == LOCAL and uri.endswith(".jsonl") and access.path(uri).stat().st_size <= MAX_READ_BYTES:
            return access.content(uri).rstrip().count(b"\n") + 1
    except NotFound:
        return None
    return None
