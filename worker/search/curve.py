"""The curve of a search: the candidates that it has measured so far, which are its progress as well."""

from service.contract.answers.result import CurvePoint
from service.contract.errors import TargetUnreachable
from worker.search.candidates import Candidate
from worker.stages.context import StageProgress

EXPECTED_MODELS = 7  # that a bisection over all ratios of a search measures at most


class Curve:
    """The measured candidates of one search.

    A search keeps one point for each number of parameters, which identifies a candidate. A sweep keeps one for each
    requested ratio, because several ratios may round to the same widths; a comparison of general weights one for each
    of these.
    """

    def __init__(self, progress: StageProgress) -> None:
        self._progress, self._expected = progress, EXPECTED_MODELS
        self._points: dict[float, CurvePoint] = {}

    def expect(self, models: int) -> None:
        """Set the number of models that the search will measure, which its progress counts to."""
        self._expected = models

    def report_progress(self) -> None:
        """Report how many models are measured. May raise to end the attempt."""
        done = len(self._points)
        self._progress.advance(done, max(done, self._expected), "models")

    def find(self, candidate: Candidate) -> CurvePoint | None:
        """The point of a candidate that was measured before."""
        return self._points.get(candidate.parameters)

    def add(self, candidate: Candidate, requested: float | None = None, **measured: object) -> None:
        """Add a candidate, or replace its point. `requested` is the ratio or the general weight that it is measured
        for, of a sweep or a comparison of these."""
        point = CurvePoint(ratio=candidate.ratio, parameters=candidate.parameters, bytes=candidate.bytes)
        key = candidate.parameters if requested is None else requested
        self._points[key] = point.model_copy(update=measured)
        self.report_progress()

    @property
    def points(self) -> list[CurvePoint]:
        """The points from the largest model to the smallest."""
        return sorted(self._points.values(), key=lambda point: point.ratio)

    def unreachable(self, message: str, field: str) -> TargetUnreachable:
        """The error for a field of the target that no candidate meets, with the points measured so far."""
        return TargetUnreachable(message, param=f"target.{field}", curve=self.points)
