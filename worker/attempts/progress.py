"""The progress of a job: one fraction over all stages, which never decreases, and an estimate of the remaining time."""

import time
from collections.abc import Callable, Collection

from service.contract.answers.job import Progress, Stage
from service.contract.options import EXPORTS, Repair
from service.contract.request.job_request import JobRequest

# The time that each stage takes in a typical job, in any unit. A job has either `search` or the three stages after it.
WEIGHTS: dict[Stage, float] = {
    Stage.fetch: 4,
    Stage.load: 4,
    Stage.synthesise: 40,
    Stage.evaluate_dense: 22,
    Stage.attribute: 35,
    Stage.search: 60,
    Stage.select: 1,
    Stage.repair: 8,
    Stage.slice: 2,
    Stage.evaluate_slim: 18,
    Stage.recover: 60,
    Stage.controls: 10,
    Stage.verify: 10,
    Stage.export: 10,
    Stage.quantise: 60,
    Stage.upload: 2,
}
WRITE_SECONDS = 0.5
WRITE_FRACTION = 0.01
ETA_AFTER_SECONDS = 5.0
ETA_AFTER_SAMPLES = 3
SMOOTHING = 0.3  # the smallest weight of the newest estimate in the running mean


class TimeEstimator:
    """Estimates when a job ends: the present stage by its own speed, later stages by that of the stages before them."""

    def __init__(self, now: float, total_weight: float) -> None:
        self._started, self._total_weight = now, total_weight
        self._samples = 0
        self._end: float | None = None

    def eta_seconds(self, now: float, stage_started: float, weight: float, share: float, ahead: float) -> float | None:
        """The remaining seconds, smoothed; None while there are too few samples.

        weight: weight of the present stage; share: the share of it that is done; ahead: weight of the stages after it.
        """
        self._samples += 1
        elapsed = now - self._started
        if share <= 0 or self._samples < ETA_AFTER_SAMPLES or elapsed < ETA_AFTER_SECONDS:
            return None
        left = (now - stage_started) * (1 - share) / share
        behind = self._total_weight - weight - ahead
        end = now + left + ahead * (elapsed + left) / (behind + weight)
        newest = max(SMOOTHING, (behind + weight * share) / self._total_weight)  # near the end the newest counts most
        self._end = end if self._end is None else self._end + newest * (end - self._end)
        return max(0.0, self._end - now)


class JobProgress:
    """Receives the progress of the pipeline. Every call first calls `check`, which raises when the attempt must end.

    `write` is called with each new stage, and then after WRITE_SECONDS or WRITE_FRACTION of the job. `skipped` are the
    stages that the job does not have. `begin` is the fraction that others have done before.
    """

    def __init__(
        self,
        write: Callable[[Stage, Progress, bool], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        skipped: Collection[Stage] = (),
        begin: float = 0.0,
    ) -> None:
        self._weights = {stage: 0.0 if stage in skipped else weight for stage, weight in WEIGHTS.items()}
        self._total_weight = sum(self._weights.values())
        self._write, self._check, self._clock = write, check, clock
        self._stage: Stage | None = None
        self._stage_started = self._written_at = clock()
        self._estimator = TimeEstimator(self._stage_started, self._total_weight)
        self._fraction = self._written_fraction = begin

    def stage(self, stage: Stage) -> None:
        """A stage begins."""
        self._check()
        self._stage, self._stage_started = stage, self._clock()
        self._fraction = max(self._fraction, self._before(stage) / self._total_weight)
        self._send(stage, Progress(fraction=self._fraction), entered=True)

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the present stage are done."""
        self._check()
        if self._stage is None:
            raise RuntimeError("a stage must begin before it can advance")
        now, weight, before = self._clock(), self._weights[self._stage], self._before(self._stage)
        share = min(1.0, done / total) if total else 1.0
        self._fraction = max(self._fraction, (before + weight * share) / self._total_weight)
        ahead = self._total_weight - before - weight
        eta = self._estimator.eta_seconds(now, self._stage_started, weight, share, ahead)
        if now - self._written_at >= WRITE_SECONDS or self._fraction - self._written_fraction >= WRITE_FRACTION:
            progress = Progress(fraction=self._fraction, done=done, total=total, unit=unit, eta_seconds=eta)
            self._send(self._stage, progress, entered=False)

    def _before(self, stage: Stage) -> float:
        """The weight of the stages before this one."""
        order = list(Stage)
        return sum(self._weights[earlier] for earlier in order[: order.index(stage)])

    def _send(self, stage: Stage, progress: Progress, *, entered: bool) -> None:
        self._written_at, self._written_fraction = self._clock(), progress.fraction
        self._write(stage, progress, entered)


def measured_fraction(request: JobRequest) -> float:
    """The share of a job that is done when the dense model is measured: the share that shards do."""
    weights = {stage: weight for stage, weight in WEIGHTS.items() if stage not in skipped_stages(request)}
    stages = list(Stage)
    ahead = stages[: stages.index(Stage.attribute) + 1]
    return sum(weights.get(stage, 0.0) for stage in ahead) / sum(weights.values())


def skipped_stages(request: JobRequest) -> set[Stage]:
    """The stages that a job does not have."""
    skipped = set() if request.recovery else {Stage.recover}
    skipped |= set() if any(task.synthesis for task in request.slimmed_for) else {Stage.synthesise}
    skipped |= set() if set(EXPORTS) & set(request.output.formats) else {Stage.export}
    skipped |= set() if request.output.quantise else {Stage.quantise}
    if request.target.is_measured:
        return skipped | {Stage.select, Stage.repair, Stage.slice}
    return skipped | ({Stage.search} if request.method.repair is not Repair.none else {Stage.search, Stage.repair})
