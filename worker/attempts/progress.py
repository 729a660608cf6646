"""How far a job is: stages and units become one fraction that never falls, and an estimate of the time left."""

import time
from collections.abc import Callable, Collection

from service.contract.job import Progress, Stage
from service.contract.options import Repair
from service.contract.request import JobRequest

# Share of a typical job's time, in any unit; a job has either `search` or the three stages after it.
WEIGHTS: dict[Stage, float] = {
    Stage.fetch: 4,
    Stage.load: 4,
    Stage.evaluate_dense: 22,
    Stage.attribute: 35,
    Stage.search: 60,
    Stage.select: 1,
    Stage.repair: 8,
    Stage.slice: 2,
    Stage.evaluate_slim: 18,
    Stage.controls: 10,
    Stage.verify: 10,
    Stage.upload: 2,
}
WRITE_SECONDS = 0.5
WRITE_FRACTION = 0.01
ETA_AFTER_SECONDS = 5.0
ETA_AFTER_SAMPLES = 3
SMOOTHING = 0.3  # least weight of the newest estimate of the end


class Pace:
    """When the job will end, judged by the stage's own speed and, for the stages ahead, by that of those behind."""

    def __init__(self, now: float, whole: float) -> None:
        self._started, self._whole = now, whole
        self._samples = 0
        self._end: float | None = None

    def eta_seconds(self, now: float, stage_started: float, weight: float, share: float, ahead: float) -> float | None:
        """Seconds left, smoothed; None until there is something to judge by.

        weight: of the present stage; share: of it that is done; ahead: weight of the stages after it.
        """
        self._samples += 1
        elapsed = now - self._started
        if share <= 0 or self._samples < ETA_AFTER_SAMPLES or elapsed < ETA_AFTER_SECONDS:
            return None
        left = (now - stage_started) * (1 - share) / share
        behind = self._whole - weight - ahead
        end = now + left + ahead * (elapsed + left) / (behind + weight)
        newest = max(SMOOTHING, (behind + weight * share) / self._whole)  # the end is close: nothing old may blur it
        self._end = end if self._end is None else self._end + newest * (end - self._end)
        return max(0.0, self._end - now)


class JobProgress:
    """What the pipeline reports to. Each call first asks `check`, which raises when the attempt must end.

    `write` is called at each new stage, and otherwise at most every half second or hundredth of the job. `skipped` are
    stages that the job does not have.
    """

    def __init__(
        self,
        write: Callable[[Stage, Progress, bool], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        skipped: Collection[Stage] = (),
    ) -> None:
        self._weights = {stage: 0.0 if stage in skipped else weight for stage, weight in WEIGHTS.items()}
        self._whole = sum(self._weights.values())
        self._write, self._check, self._clock = write, check, clock
        self._stage: Stage | None = None
        self._stage_started = self._written_at = clock()
        self._pace = Pace(self._stage_started, self._whole)
        self._fraction = self._written_fraction = 0.0

    def stage(self, stage: Stage) -> None:
        """A stage begins."""
        self._check()
        self._stage, self._stage_started = stage, self._clock()
        self._fraction = max(self._fraction, self._before(stage) / self._whole)
        self._put(stage, Progress(fraction=self._fraction), entered=True)

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the present stage are done."""
        self._check()
        if self._stage is None:
            raise RuntimeError("a stage must begin before it can advance")
        now, weight, before = self._clock(), self._weights[self._stage], self._before(self._stage)
        share = min(1.0, done / total) if total else 1.0
        self._fraction = max(self._fraction, (before + weight * share) / self._whole)
        eta = self._pace.eta_seconds(now, self._stage_started, weight, share, self._whole - before - weight)
        if now - self._written_at >= WRITE_SECONDS or self._fraction - self._written_fraction >= WRITE_FRACTION:
            progress = Progress(fraction=self._fraction, done=done, total=total, unit=unit, eta_seconds=eta)
            self._put(self._stage, progress, entered=False)

    def _before(self, stage: Stage) -> float:
        """Weight of the stages that come before this one."""
        order = list(Stage)
        return sum(self._weights[earlier] for earlier in order[: order.index(stage)])

    def _put(self, stage: Stage, progress: Progress, *, entered: bool) -> None:
        self._written_at, self._written_fraction = self._clock(), progress.fraction
        self._write(stage, progress, entered)


def skipped_stages(request: JobRequest) -> set[Stage]:
    """The stages that a job does not have."""
    if request.target.is_measured:
        return {Stage.select, Stage.repair, Stage.slice}
    return {Stage.search} if request.method.repair is not Repair.none else {Stage.search, Stage.repair}
