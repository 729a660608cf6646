"""How far a job is: stages and units become one fraction that never falls, and an estimate of the time left."""

import time
from collections.abc import Callable

from service.schemas import Progress, Stage

# Share of a typical job's time, in any unit; stages that a job leaves out only make the fraction jump ahead.
WEIGHTS: dict[Stage, float] = {
    Stage.fetch: 4,
    Stage.load: 4,
    Stage.evaluate_dense: 22,
    Stage.attribute: 35,
    Stage.select: 1,
    Stage.repair: 8,
    Stage.slice: 2,
    Stage.evaluate_slim: 18,
    Stage.verify: 10,
    Stage.upload: 2,
}
WHOLE = sum(WEIGHTS.values())
WRITE_SECONDS = 0.5
WRITE_FRACTION = 0.01
ETA_AFTER_SECONDS = 5.0
ETA_AFTER_SAMPLES = 3
SMOOTHING = 0.3  # least weight of the newest estimate of the end


class Pace:
    """When the job will end, judged by the stage's own speed and, for the stages ahead, by that of those behind."""

    def __init__(self, now: float) -> None:
        self._started = now
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
        behind = WHOLE - weight - ahead
        end = now + left + ahead * (elapsed + left) / (behind + weight)
        newest = max(SMOOTHING, (behind + weight * share) / WHOLE)  # the end is close: nothing old may blur it
        self._end = end if self._end is None else self._end + newest * (end - self._end)
        return max(0.0, self._end - now)


class JobProgress:
    """What the pipeline reports to. Each call first asks `check`, which raises when the attempt must end.

    `write` is called at each new stage, and otherwise at most every half second or hundredth of the job.
    """

    def __init__(
        self,
        write: Callable[[Stage, Progress, bool], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._check, self._clock = write, check, clock
        self._stage: Stage | None = None
        self._stage_started = self._written_at = clock()
        self._pace = Pace(self._stage_started)
        self._fraction = self._written_fraction = 0.0

    def stage(self, stage: Stage) -> None:
        """A stage begins."""
        self._check()
        self._stage, self._stage_started = stage, self._clock()
        self._fraction = max(self._fraction, weight_before(stage) / WHOLE)
        self._put(stage, Progress(fraction=self._fraction), entered=True)

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the present stage are done."""
        self._check()
        if self._stage is None:
            raise RuntimeError("a stage must begin before it can advance")
        now, weight, before = self._clock(), WEIGHTS[self._stage], weight_before(self._stage)
        share = min(1.0, done / total) if total else 1.0
        self._fraction = max(self._fraction, (before + weight * share) / WHOLE)
        eta = self._pace.eta_seconds(now, self._stage_started, weight, share, WHOLE - before - weight)
        if now - self._written_at >= WRITE_SECONDS or self._fraction - self._written_fraction >= WRITE_FRACTION:
            progress = Progress(fraction=self._fraction, done=done, total=total, unit=unit, eta_seconds=eta)
            self._put(self._stage, progress, entered=False)

    def _put(self, stage: Stage, progress: Progress, *, entered: bool) -> None:
        self._written_at, self._written_fraction = self._clock(), progress.fraction
        self._write(stage, progress, entered)


def weight_before(stage: Stage) -> float:
    """Weight of the stages that come before this one."""
    order = list(Stage)
    return sum(WEIGHTS[earlier] for earlier in order[: order.index(stage)])
