"""What is measured beside the first task of a job: the other tasks of a union, further rows, observed tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.contract.result import JobMetrics, MetricsPair
from worker.checkpoints.loading import LoadedModel
from worker.stages import side_tasks
from worker.stages.task_model import Measured, TaskModel


@dataclass(frozen=True)
class Beside:
    """Subjects by name. They share the model with the subject that is slimmed."""

    partners: Mapping[str, TaskModel]  # the other tasks of a union
    evaluations: Mapping[str, TaskModel]  # the task on further rows
    observed: Mapping[str, TaskModel]  # tasks that the model is not slimmed for

    @property
    def task_models(self) -> list[TaskModel]:
        """All of them, in the order in which `metrics` takes what was measured."""
        return [*self.partners.values(), *self.evaluations.values(), *self.observed.values()]

    def on(self, loaded: LoadedModel) -> list[TaskModel]:
        """All of them with another model."""
        return [replace(task_model, loaded=loaded) for task_model in self.task_models]

    def tasks(self, task_model: TaskModel) -> dict[str, TaskModel]:
        """The tasks of a union by title, the subject's own first; none where there is one task."""
        return {task_model.wording.task.title: task_model, **self.partners} if self.partners else {}

    def metrics(self, title: str, dense: Sequence[Measured], slim: Sequence[Measured]) -> JobMetrics:
        """The figures of the task called `title`, which come first, and of all that was measured beside it."""
        names = [title, *self.partners, *self.evaluations, *self.observed]
        measured = zip(names, dense, slim, strict=True)
        pairs = [(name, MetricsPair(dense=before.metrics, slim=now.metrics)) for name, before, now in measured]
        tasks, others = pairs[: 1 + len(self.partners)], pairs[1 + len(self.partners) :]
        return JobMetrics(
            dense=side_tasks.pooled([pair.dense for _, pair in tasks]),
            slim=side_tasks.pooled([pair.slim for _, pair in tasks]),
            tasks=dict(tasks) if self.partners else {},
            evaluations=dict(others[: len(self.evaluations)]),
            observed=dict(others[len(self.evaluations) :]),
        )
