"""The values and functions that every kind of search shares."""

from dataclasses import dataclass, replace

from worker.data import batching
from worker.evaluation.metrics import select_rows
from worker.evaluation.sequential import SequentialTest, Verdict
from worker.search.candidates import Candidate, Candidates
from worker.search.chosen import ChosenModel
from worker.search.curve import Curve
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.task_model import Measured, TaskModel, measured_part, with_examples


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
        padding, budget = self.task_model.padding, self.context.settings.tokens_per_batch
        return SequentialTest(
            kind=self.task_model.kind,
            examples=[self.task_model.evaluation.examples[row] for row in rows],
            dense=select_rows(self.dense.scores, rows),
            batched=lambda examples: batching.batches(examples, padding, budget),
        )

    def chosen(
        self, candidate: Candidate, slim: TaskModel, rows: list[int], steering: Verdict | None = None
    ) -> ChosenModel:
        """The outcome of the search: `slim` is the cut candidate, which is reported on the given evaluation rows."""
        whole = self.task_model.evaluation
        evaluation = with_examples(self.context, self.task_model, whole, [whole.examples[row] for row in rows])
        reported = replace(slim, evaluation=evaluation)
        return ChosenModel(
            candidate=candidate,
            groups=self.candidates.groups,
            task_model=reported,
            dense=measured_part(self.dense, reported, rows),
            rows=rows,
            curve=self.curve.points,
            steering=steering,
        )
