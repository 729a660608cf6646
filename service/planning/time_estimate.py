"""Estimates how long a job takes, from the durations of the stages of past jobs.

Redis: the list `slim:durations` has the past jobs as JSON, the newest first.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, cast

from redis import Redis

from service.contract.answers.catalog import TimeEstimate
from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.errors import NotFound
from service.contract.fields import EVALUATION_SHARE
from service.contract.options import EXPORTS, Repair
from service.contract.request.job_request import JobRequest
from service.contract.request.task import DataSource, Task
from service.sources.access import DATASET, Access
from service.sources.readers import LOCAL, scheme_of
from service.storage.keys import dataset_id_of, dataset_key

DURATIONS = "slim:durations"
MAX_RUNS = 200
MAX_READ_BYTES = 16 * 2**20  # of a file whose rows are counted while a client waits

# Stages that pass rows through the model. The time of all others depends on the size of the model alone.
CALIBRATING = frozenset({Stage.attribute, Stage.repair})
EVALUATING = frozenset({Stage.evaluate_dense, Stage.evaluate_slim})
REPAIRING = frozenset({Stage.repair, Stage.search, Stage.controls})
SEARCHED = frozenset({Stage.select, Stage.repair, Stage.slice})  # stages that are a part of the stage `search`
# A job that has one of these stages is estimated only if a past job had it too.
DECISIVE = frozenset({Stage.evaluate_dense, Stage.attribute, Stage.search, Stage.repair, Stage.controls})
FITTED_ANEW = frozenset({Repair.least_squares_layerwise})  # repairs that pass rows through every model of a search anew
TRAINING_PASSES = 3  # forward passes that take as long as the forward and backward pass of a training step
MEASURED = ("latency_ms", "keep_metric", "sweep", "general_weights")  # targets for which models are measured
SEARCHED_MODELS = 7  # that a bisection over hundredths of a ratio measures


@dataclass(frozen=True)
class Work:
    """The properties of a job that decide how long it takes."""

    family: str
    parameters: int
    calibration_rows: int
    evaluation_rows: int
    steps: int
    criterion: str
    repair: str
    search: str = ""  # the target that models are measured for, such as `keep_metric`
    models: int = 0  # about how many models are measured
    reported_rows: int | None = None  # the evaluation rows that the report counts, where a search uses the others
    controls: bool = False
    recovery_epochs: int = 0  # passes over the calibration rows in the training of a recovery; 0: there is none
    recovery_seconds: float = 0.0  # the longest time of that training
    exports: int = 0  # formats of other runtimes
    written_texts: int = 0  # rows and rationales that a language model writes, at most
    precisions: int = 0  # quantised copies

    def amount(self, stage: str) -> float:
        """Parameters times the rows that pass through them in a stage, to which its seconds are proportional."""
        if stage == Stage.search:
            fitted = self.calibration_rows * (1 + (self.models if self.repair in FITTED_ANEW else 0))
            trained = TRAINING_PASSES * self.recovery_epochs * self.calibration_rows
            return float(self.parameters * (fitted + self.models * (self.evaluation_rows + trained)))
        if stage == Stage.recover:
            trained = TRAINING_PASSES * self.recovery_epochs * self.calibration_rows
            return float(self.parameters * (self.evaluation_rows + (0 if self.search else trained)))
        if stage == Stage.synthesise:
            return float(self.parameters * self.written_texts)
        if stage == Stage.quantise:  # two models are measured for each copy
            return float(self.parameters * 2 * self.precisions * (self.reported_rows or self.evaluation_rows))
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
    """A job that succeeded, and the seconds of the stages that ran; a stage whose result was reused is left out."""

    work: Work
    seconds: dict[str, float]


class Durations:
    """The past jobs of all tenants. Only counts and times of them are stored."""

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
        """The past jobs, the newest first."""
        found = map(json.loads, cast(list[str], self._redis.lrange(DURATIONS, 0, -1)))
        return [Run(_known(entry["work"]), entry["seconds"]) for entry in found]

    def estimate(self, work: Work, skipped: Iterable[str] = ()) -> TimeEstimate | None:
        """The seconds that `work` takes without the `skipped` stages. Returns None as `estimate` does."""
        return estimate(self.runs(), work, skipped)


def _known(work: dict[str, Any]) -> Work:
    """The work with the fields that this version knows; another version may have stored others."""
    names = {field.name for field in fields(Work)}
    return Work(**{name: value for name, value in work.items() if name in names})


def estimate(runs: Sequence[Run], work: Work, skipped: Iterable[str] = ()) -> TimeEstimate | None:
    """The sum over the stages of amount times median pace (seconds for each unit of amount).

    Runs of the same family count, or all runs if there is none. Among these, the pace of attribution is that of runs
    with the same criterion, of a search that of runs with the same target, and of repairing stages that of runs with
    the same repair, if there are such runs. A recovery counts as its longest time where no run had one. Returns None if
    no run had one of the decisive stages of the job.
    """
    alike = [run for run in runs if run.work.family == work.family] or list(runs)
    known = {stage for run in alike for stage in run.seconds}
    absent = set(skipped) | (SEARCHED if work.search else {Stage.search})
    absent |= {Stage.repair} if work.repair == Repair.none else set()
    absent |= set() if work.controls else {Stage.controls}
    absent |= set() if work.recovery_epochs else {Stage.recover}
    absent |= set() if work.exports else {Stage.export}
    absent |= set() if work.written_texts else {Stage.synthesise}
    absent |= set() if work.precisions else {Stage.quantise}
    if not alike or DECISIVE - absent - known:
        return None
    seconds = sum(_seconds(alike, stage, work) for stage in known - absent)
    if Stage.recover not in absent | known:
        seconds += work.recovery_seconds
    return TimeEstimate(seconds=round(seconds, 1), runs=len(alike))


def _seconds(runs: Sequence[Run], stage: str, work: Work) -> float:
    """The seconds of a stage; a recovery in a stage of its own takes little more than the time that it may take."""
    seconds = work.amount(stage) * _pace(runs, stage, work)
    return min(seconds, work.recovery_seconds) if stage == Stage.recover else seconds


def _pace(runs: Sequence[Run], stage: str, work: Work) -> float:
    ran = [run for run in runs if stage in run.seconds]
    if stage == Stage.attribute:
        ran = [run for run in ran if run.work.criterion == work.criterion] or ran
    if stage == Stage.search:
        ran = [run for run in ran if run.work.search == work.search] or ran
        ran = [run for run in ran if bool(run.work.recovery_epochs) == bool(work.recovery_epochs)] or ran
    if stage in REPAIRING:
        ran = [run for run in ran if run.work.repair == work.repair] or ran
    return median(run.seconds[stage] / run.work.amount(stage) for run in ran)


def work_of(report: Report) -> Work:
    """The work of a job that succeeded."""
    parameters, evaluated = report.result.parameters.dense, report.result.metrics.dense.examples
    if report.result.kept_metric is not None:
        evaluated *= 2  # the search used the other half of the rows, which the metrics do not count
    return _work(report.family, parameters, report.calibration_examples, evaluated, report.request)


def seconds_of(report: Report) -> dict[str, float]:
    """Stage -> seconds, without the stages whose result came from an earlier job or from shards."""
    in_shards = report.request.method.shards > 1  # which have run these stages elsewhere
    reused = {
        Stage.attribute: in_shards or report.result.scores_reused,
        Stage.evaluate_dense: in_shards or report.result.evaluation_reused,
    }
    return {timing.stage: timing.seconds for timing in report.timings if not reused.get(timing.stage, False)}


def planned_work(request: JobRequest, family: str, parameters: int, access: Access) -> Work | None:
    """The work of a request; None if its rows cannot be counted quickly."""
    counted = [_rows(task, access) for task in request.slimmed_for]
    known = [rows for rows in counted if rows is not None]
    if len(known) < len(counted):
        return None
    calibration, evaluation = (sum(rows[part] for rows in known) for part in (0, 1))
    return _work(family, parameters, calibration, evaluation, request)


def _rows(task: Task, access: Access) -> tuple[int, int] | None:
    """(calibration rows, evaluation rows) of a task; None if they cannot be counted quickly."""
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
    searched = [
        name for name in ("latency_ms", "keep_metric", "sweep", "general_weights") if getattr(target, name) is not None
    ]
    return Work(
        family=family,
        parameters=parameters,
        calibration_rows=calibration,
        evaluation_rows=evaluation,
        steps=method.steps,
        criterion=method.criterion.value,
        repair=method.repair.value,
        search="+".join(searched),
        models=len(target.sweep or target.general_weights or ()) or SEARCHED_MODELS * len(searched),
        reported_rows=evaluation // 2 if target.keep_metric is not None else None,
        controls=method.controls,
        recovery_epochs=request.recovery.epochs if request.recovery else 0,
        recovery_seconds=request.recovery.seconds if request.recovery else 0.0,
        exports=len(set(EXPORTS) & set(request.output.formats)),
        written_texts=sum(_written_texts(task, calibration) for task in request.slimmed_for),
        precisions=len(request.output.quantise),
    )


def _written_texts(task: Task, calibration: int) -> int:
    """Rows and rationales that a task's synthesis writes, where all written rows are kept."""
    if task.synthesis is None:
        return 0
    return task.synthesis.rows + (calibration + task.synthesis.rows if task.synthesis.rationales else 0)


def _count(source: DataSource, access: Access) -> int | None:
    """Rows of a source. A file that is not JSON Lines, that is large or remote is counted only by its `limit`."""
    counted = len(source.rows) if source.rows is not None else _lines(source.uri or "", access)
    known = [count for count in (counted, source.limit) if count is not None]
    return min(known, default=None)


def _lines(uri: str, access: Access) -> int | None:
    try:
        if scheme_of(uri) == DATASET:
            key = dataset_key(access.tenant, dataset_id_of(uri))
            if access.storage.stat(key).size <= MAX_READ_BYTES:
                return access.storage.get_bytes(key).count(b"\n")
        if scheme_of(uri) == LOCAL and uri.endswith(".jsonl") and access.path(uri).stat().st_size <= MAX_READ_BYTES:
            return access.content(uri).rstrip().count(b"\n") + 1
    except NotFound:
        return None
    return None
