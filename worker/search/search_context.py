"""The values and functions that every kind of search shares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.evaluation.answers import Answers
from worker.evaluation.sequential import AnswerRows, SequentialTest, Verdict
from worker.evaluation.task_metrics import FORMULAS
from worker.recovery.recovered import Recovered
from worker.search.candidates import Candidate, Candidates
from worker.search.chosen import ChosenModel
from worker.search.curve import Curve
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.evaluation.quantisation import judged_in_precision
from worker.stages.recovery import recover
from worker.stages.task_model import (
    Measured,
    TaskModel,
    answer_rows,
    fitted,
    measured_part,
    on_rows_of_offsets,
    with_examples,
)


@dataclass(frozen=True)
class SlimCopy:
    """A candidate as a cut model, and as the model that is judged: with label offsets, recovered where the job recovers
    its model, and quantised where the job asks for one precision."""

    cut: TaskModel
    judged: TaskModel
    recovered: Recovered | None = None


@dataclass(frozen=True)
class SearchContext:
    """A running search: the dense model and its measurement, the candidates, and those measured so far."""

    context: JobContext
    task_model: TaskModel
    dense: Measured
    candidates: Candidates
    curve: Curve

    @classmethod
    def begin(cls, context: JobContext, task_model: TaskModel, dense: Measured, path: ScorePath) -> "SearchContext":
        """A search that has measured nothing yet."""
        curve = Curve(context.progress)
        candidates = Candidates(context, task_model, path, curve.report_progress)
        return cls(context, task_model, dense, candidates, curve)

    @property
    def all_rows(self) -> list[int]:
        """The indices of the evaluation rows."""
        return list(range(len(self.task_model.evaluation.examples)))

    def test_on(self, rows: list[int]) -> SequentialTest:
        """The test of candidates on these evaluation rows, in their order."""
        return SequentialTest(
            metric=self.task_model.metric,
            examples=[self.task_model.evaluation.examples[row] for row in rows],
            dense=self.dense.answers.of_rows(rows),
            rows=rows,
        )

    def slim_copy(self, candidate: Candidate) -> SlimCopy:
        """The candidate as a cut model, recovered where the job asks for it, with label offsets of its own."""
        cut = self.candidates.slim_copy(candidate)
        if self.context.job.request.recovery is None:
            return SlimCopy(cut, self._judged(cut))
        recovered = recover(self.context, cut, [self.task_model], lambda: self.task_model.loaded.model, self._on_batch)
        return SlimCopy(cut, self._judged(replace(cut, loaded=recovered.loaded)), recovered)

    def _judged(self, slim: TaskModel) -> TaskModel:
        """The model as it is judged: in the precision that the job asks for, with label offsets of its own."""
        has_floor = self.context.job.request.target.keep_metric is not None
        return self.with_offsets(judged_in_precision(self.context, slim, self.task_model.loaded) if has_floor else slim)

    def with_offsets(self, slim: TaskModel) -> TaskModel:
        """The model with label offsets, which are fitted to its answers to calibration rows, where it has labels."""
        fitting = on_rows_of_offsets(slim)
        if fitting is None:
            return slim
        return replace(slim, offset_L=fitted(answer_rows(self.context, fitting, self._on_batch)))

    def _on_batch(self, *_: int) -> None:
        self.curve.report_progress()

    def answers_of(self, slim: TaskModel, test: SequentialTest) -> AnswerRows:
        """The answers of a cut model to rows of a test, with its label offsets."""

        def answer(start: int, end: int) -> Answers:
            part = self._asked(slim, test.rows[start:end])
            texts = FORMULAS[test.metric].needs_texts
            return replace(answer_rows(self.context, part, self._on_batch, texts=texts), offset_L=slim.offset_L)

        return answer

    def _asked(self, slim: TaskModel, rows: Sequence[int]) -> TaskModel:
        """The cut model with some of the evaluation rows, as it reads them."""
        examples = [slim.evaluation.examples[row] for row in rows]
        return replace(slim, evaluation=with_examples(self.context, slim, slim.evaluation, examples))

    def chosen(
        self, candidate: Candidate, slim: SlimCopy, rows: list[int], steering: Verdict | None = None
    ) -> ChosenModel:
        """The outcome of the search: `slim` is the cut candidate, which is reported on the given evaluation rows."""
        reported = self._asked(slim.cut, rows)
        return ChosenModel(
            candidate=candidate,
            groups=self.candidates.groups,
            task_model=reported,
            dense=measured_part(self.dense, reported, rows),
            rows=rows,
            curve=self.curve.points,
            steering=steering,
            recovered=slim.recovered,
        )
