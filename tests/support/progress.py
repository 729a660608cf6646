"""The progress of a job that a test runs in its own process."""

from service.contract.answers.job import Stage


class IgnoredProgress:
    """Takes the stages and counts of a pipeline and records none of them."""

    def stage(self, stage: Stage) -> None: ...

    def advance(self, done: int, total: int, unit: str) -> None: ...
