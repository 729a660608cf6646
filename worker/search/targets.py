"""From what a job asks for to the model that it gets: counted where that is enough, searched for where it is not."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from service.contract.bisection import last_that_holds, turning_point
from service.contract.errors import InvalidRequest, TargetUnreachable
from service.contract.method import LatencyBound, Target
from service.contract.options import TaskKind
from service.contract.result import CurvePoint, KeptMetric
from worker.data import batching
from worker.evaluation import latency
from worker.evaluation.bootstrap import METRICS, Kept, kept
from worker.evaluation.sequential_test import SequentialTest, Verdict, in_proportion, part
from worker.search.candidates import Candidate, Candidates
from worker.slimming.allocation import WidthUnreachable
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.units import Group
from worker.stages.context import JobContext
from worker.stages.task_model import Measured, TaskModel, measured_part

SPLIT_SEED = 0


@dataclass(frozen=True)
class Reached:
    """The model that meets the target, and what was measured on the way to it."""

    candidate: Candidate
    groups: list[Group]
    task_model: TaskModel  # cut; its evaluation rows are those that report
    dense: Measured  # on those rows
    rows: list[int]  # which of the evaluation rows they are
    curve: list[CurvePoint] = field(default_factory=list)
    steering: Verdict | None = None


def count(candidates: Candidates, context: JobContext) -> Candidate:
    """The model of a target that needs no measurement. Raises TargetUnreachable."""
    target = context.job.request.target
    if target.ratio is None:
        return largest_within(candidates, context)
    try:
        return candidates.at(target.ratio)
    except WidthUnreachable as error:
        message = f"{error}: ask for a lower ratio or a smaller round_to"
        raise TargetUnreachable(message, param="target.ratio") from error


def counted_bound(target: Target) -> tuple[str, int]:
    """(`parameters` or `bytes`, the most that the target allows of them)."""
    name, number = ("parameters", target.parameters) if target.bytes is None else ("bytes", target.bytes)
    assert number is not None
    return name, number


def is_within(candidate: Candidate, target: Target) -> bool:
    """Whether a model is no larger than the target's `parameters` or `bytes`."""
    name, number = counted_bound(target)
    return int(getattr(candidate, name)) <= number


def largest_within(candidates: Candidates, context: JobContext) -> Candidate:
    """The largest model whose `parameters` or `bytes` are not above the target's number."""
    target = context.job.request.target
    name, number = counted_bound(target)

    def size(ratio: float) -> int:
        return int(getattr(candidates.at(ratio), name))

    if is_within(candidates.dense, target):
        raise InvalidRequest(
            f"the model has no more than {number} {name} as it is: {size(0.0)}", param=f"target.{name}"
        )
    if size(candidates.highest) > number:
        message = f"the smallest model that can be made has {size(candidates.highest)} {name}, more than {number}"
        raise TargetUnreachable(message, param=f"target.{name}")
    return candidates.at(turning_point(0.0, candidates.highest, lambda ratio: size(ratio) > number)[1])


# Stores a cut model's checkpoint under "model" and a suffix.
Store = Callable[[TaskModel, list[Group], Candidate, str], object]


def search(context: JobContext, task_model: TaskModel, dense: Measured, path: ScorePath, store: Store) -> Reached:
    """The model of a target that is measured; `store` is given those of a sweep that are asked for beside it.

    Raises TargetUnreachable, with the curve.
    """
    return Search(context, task_model, dense, path, store).run()


class Search:
    """Looks for one target's model. What it has measured it does not measure again."""

    def __init__(
        self, context: JobContext, task_model: TaskModel, dense: Measured, path: ScorePath, store: Store
    ) -> None:
        self.context, self.task_model, self.dense, self.store = context, task_model, dense, store
        self.target = context.job.request.target
        self.candidates = Candidates(context, task_model, path, self.tick)
        # By the number of parameters, which tells nested models apart; of a sweep by the ratio that was asked for.
        self.points: dict[float, CurvePoint] = {}
        self.best: tuple[Candidate, TaskModel, Verdict | None] | None = None
        self.expected = len(self.target.sweep or ()) or 7

    def tick(self) -> None:
        """A sign of life; may raise in order to end the attempt."""
        done = len(self.points)
        self.context.progress.advance(done, max(done, self.expected), "models")

    def run(self) -> Reached:
        """Dispatch by the kind of the target."""
        if self.target.sweep is not None:
            return self.sweep(self.target.sweep)
        bound = self.bound()
        return self.within(bound) if self.target.keep_metric is None else self.keeping(self.target.keep_metric, bound)

    def bound(self) -> Candidate | None:
        """The largest model within the target's number, if there is one."""
        if self.target.latency_ms is not None:
            return self.fastest_enough(self.target.latency_ms)
        if (self.target.parameters is self.target.bytes is None) or is_within(self.candidates.dense, self.target):
            return None
        return largest_within(self.candidates, self.context)

    # --- sweep

    def sweep(self, ratios: list[float]) -> Reached:
        """A model at each ratio, all on all evaluation rows; the smallest one with artifacts is the job's own."""
        judge, artifacts = (
            self.judge(list(range(len(self.task_model.evaluation.examples)))),
            self.target.artifacts or [max(ratios)],
        )
        measured: tuple[int, TaskModel, Kept] | None = None  # with the number of parameters
        for ratio in sorted(ratios):
            candidate = self.reachable(ratio)
            if measured is None or measured[0] != candidate.parameters:  # ratios may round to one width
                cut = self.candidates.cut(candidate)
                measured = candidate.parameters, cut, judge.measure(cut.loaded.model, self.tick)
            _, cut, found = measured
            name = None
            if ratio == max(artifacts):
                name, self.best = "model", (candidate, cut, None)
            elif ratio in artifacts:
                name = f"model-{ratio:g}"
                self.store(cut, self.candidates.groups, candidate, f"-{ratio:g}")
            judged = {"examples": len(judge.examples), "metric": found.metric, "share": found.share}
            self.note(candidate, ratio, **judged, artifact=name)
        return self.reached(list(range(len(judge.examples))))

    def reachable(self, ratio: float) -> Candidate:
        """The model for a ratio of the sweep. Raises TargetUnreachable."""
        try:
            return self.candidates.at(ratio)
        except WidthUnreachable as error:
            raise self.unreachable(f"{error}: sweep over lower ratios", "sweep") from error

    # --- latency

    def fastest_enough(self, bound: LatencyBound) -> Candidate:
        """The largest model whose forward pass takes no longer, by passes of models that are cut in fact."""
        self.check_tokens(bound)
        ratios = self.candidates.grid()

        def is_slow(number: int) -> bool:
            return self.milliseconds(self.candidates.at(ratios[number - 1]), bound) > bound.value

        slow = last_that_holds(len(ratios), is_slow)
        if slow == len(ratios):
            least = min(point.latency_ms for point in self.points.values() if point.latency_ms is not None)
            message = f"the fastest model that can be made takes {least:.2f} ms, more than {bound.value:g}"
            raise self.unreachable(message, "latency_ms")
        return self.candidates.at(ratios[slow])

    def check_tokens(self, bound: LatencyBound) -> None:
        """Raise InvalidRequest for a pass that the model cannot make."""
        most = self.task_model.wording.max_tokens
        if most is not None and bound.tokens > most:
            raise InvalidRequest(f"the model takes {most} tokens at most", param="target.latency_ms.tokens")

    def milliseconds(self, candidate: Candidate, bound: LatencyBound) -> float:
        """Median time of the cut model's forward pass."""
        known = self.points.get(candidate.parameters)
        if known is not None and known.latency_ms is not None:
            return known.latency_ms
        cut = self.candidates.cut(candidate)
        examples, padding = self.task_model.evaluation.examples, self.task_model.padding
        took = latency.alone(cut.loaded.model, examples, padding, bound.batch, bound.tokens, self.tick)
        self.note(candidate, latency_ms=took, meets=took <= bound.value)
        return took

    def within(self, bound: Candidate | None) -> Reached:
        """The model of a target of latency alone."""
        assert bound is not None
        self.best = (bound, self.candidates.cut(bound), None)
        return self.reached(list(range(len(self.task_model.evaluation.examples))))

    # --- a floor under the metric

    def keeping(self, floor: float, bound: Candidate | None) -> Reached:
        """The smallest model that keeps `floor` of the dense metric, and is within `bound` where there is one."""
        order = in_proportion([example.answer for example in self.task_model.evaluation.examples], SPLIT_SEED)
        steering, reported = order[: len(order) // 2], sorted(order[len(order) // 2 :])
        if not steering:
            raise InvalidRequest("`keep_metric` needs at least two evaluation rows", param="task.evaluation")
        judge, ratios = self.judge(steering), self.candidates.grid(*([bound.asked] if bound else []))
        self.expected = max(1, len(ratios).bit_length())
        first = ratios.index(bound.asked) + 1 if bound else None
        last = last_that_holds(
            len(ratios), lambda number: self.holds(self.candidates.at(ratios[number - 1]), floor, judge), first
        )
        if last == 0 or (first is not None and last < first):
            raise self.unreachable(self.what_fails(floor, judge, bound), "keep_metric")
        return self.reached(reported)

    def holds(self, candidate: Candidate, floor: float, judge: SequentialTest) -> bool:
        """Whether a model keeps the floor; the smallest that does is remembered whole."""
        known = self.points.get(candidate.parameters)
        if known is not None and known.share is not None:
            return bool(known.meets)
        cut = self.candidates.cut(candidate)
        verdict = judge.verdict(cut.loaded.model, floor, self.tick)
        found = verdict.kept
        latency_ms = known.latency_ms if known else None
        self.note(
            candidate,
            examples=verdict.examples,
            metric=found.metric,
            share=found.share,
            latency_ms=latency_ms,
            meets=verdict.holds,
        )
        if verdict.holds and (self.best is None or candidate.parameters < self.best[0].parameters):
            self.best = (candidate, cut, verdict)
        return verdict.holds

    def what_fails(self, floor: float, judge: SequentialTest, bound: Candidate | None) -> str:
        """In words, with what would hold."""
        name, rows = METRICS[judge.kind].name.replace("_", " "), len(judge.examples)
        asked = f"{floor:g} of the dense model's {name} by the lower bound on {rows} steering rows"
        if bound is None or self.best is None:
            return f"no smaller model was shown to keep {asked}: ask for less, or give more evaluation rows"
        smallest = self.best[0]
        return (
            f"a model of at most {bound.parameters} parameters was not shown to keep {asked}; the smallest that was "
            f"has {smallest.parameters} parameters, {smallest.bytes} bytes"
        )

    # --- all of them

    def judge(self, rows: list[int]) -> SequentialTest:
        """Judges by these evaluation rows, in their order."""
        padding, budget = self.task_model.padding, self.context.settings.tokens_per_batch
        return SequentialTest(
            kind=self.task_model.wording.task.kind or TaskKind.classification,
            examples=[self.task_model.evaluation.examples[row] for row in rows],
            dense=part(self.dense.scores, rows),
            batched=lambda examples: batching.batches(examples, padding, budget),
        )

    def note(self, candidate: Candidate, asked: float | None = None, **found: object) -> None:
        """Add a model to the curve, or what is newly known of it; those of a sweep are told apart by what was asked."""
        point = CurvePoint(ratio=candidate.ratio, parameters=candidate.parameters, bytes=candidate.bytes)
        self.points[candidate.parameters if asked is None else asked] = point.model_copy(update=found)
        self.tick()

    @property
    def curve(self) -> list[CurvePoint]:
        """From the largest model to the smallest."""
        return sorted(self.points.values(), key=lambda point: point.ratio)

    def unreachable(self, message: str, field: str) -> TargetUnreachable:
        return TargetUnreachable(message, param=f"target.{field}", curve=self.curve)

    def reached(self, rows: list[int]) -> Reached:
        """The best model found, to be reported on these evaluation rows."""
        assert self.best is not None
        candidate, cut, verdict = self.best
        whole, budget = self.task_model.evaluation, self.context.settings.tokens_per_batch
        examples = [whole.examples[row] for row in rows]
        reporting = replace(
            whole, examples=examples, batches=batching.batches(examples, self.task_model.padding, budget)
        )
        slim = replace(cut, evaluation=reporting)
        return Reached(
            candidate=candidate,
            groups=self.candidates.groups,
            task_model=slim,
            dense=measured_part(self.dense, slim, rows),
            rows=rows,
            curve=self.curve,
            steering=verdict,
        )


def kept_metric(context: JobContext, reached: Reached, slim: Measured) -> KeptMetric | None:
    """What a search has kept, by both parts of the rows; None where it did not ask for a floor."""
    floor, steering = context.job.request.target.keep_metric, reached.steering
    if floor is None or steering is None:
        return None
    metric = METRICS[reached.task_model.wording.task.kind or TaskKind.classification]
    reported = kept(metric, slim.scores, reached.dense.scores, reached.task_model.evaluation.examples)
    return KeptMetric(
        metric=metric.name,
        floor=floor,
        steering_examples=steering.examples,
        steering=steering.kept.share,
        reported_examples=len(reached.rows),
        reported=reported.share,
        seed=SPLIT_SEED,
    )
