"""Jobs before the search for their target, and whole jobs with a target, on tiny models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from service.contract.answers.job import Stage
from service.contract.answers.result import Result
from service.jobs.record import new_record
from service.models.families.family import CLASSIFIERS
from service.models.families.table import FAMILIES
from service.settings import Settings
from tests.support.pipeline_jobs import Deployment, Recorder
from tests.support.prepared_jobs import prepare
from worker.search.candidates import Candidates
from worker.search.chosen import ChosenModel
from worker.search.search import search
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.scores.attribution import attribute, step_ratios
from worker.stages.slim import locate_groups
from worker.stages.task_model import Measured, TaskModel, evaluate

KEEPING: dict[str, Any] = {"target": {"keep_metric": 0.9}, "output": {"round_to": 1}}


@dataclass(frozen=True)
class SearchJob:
    """A job before the search for its target."""

    context: JobContext
    task_model: TaskModel
    dense: Measured
    progress: Recorder

    @property
    def path(self) -> ScorePath:
        """The unit scores of the job."""
        return attribute(self.context, self.task_model, step_ratios(self.context.job.request))

    def candidates(self, seed: int = 0) -> Candidates:
        """The candidates along a path of random scores."""
        generator = torch.Generator().manual_seed(seed)
        groups = locate_groups(self.context, self.task_model)
        scores = {group.site: torch.rand(group.count, generator=generator) for group in groups}
        return Candidates(self.context, self.task_model, ScorePath((0.0,), (scores,)))

    def search(self) -> ChosenModel:
        """The model that the search chooses."""
        return search(self.context, self.task_model, self.dense, self.path, save_nothing)


def save_nothing(*_: object) -> None:
    """The `save` of a search that is not a sweep, and does not call it."""


def search_job(root: Path, family: str = "llama", num_rows: int = 80, **fields: Any) -> SearchJob:
    """A job with these fields and `num_rows` evaluation rows, before the search for its target."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    deployment, progress = Deployment(root), Recorder()
    classes = {"labels": {"0": "LABEL_0", "1": "LABEL_2"}}
    task = classes if family in FAMILIES and FAMILIES[family].kind in CLASSIFIERS else {}
    task = task | fields.pop("task", {}) | {"evaluation": {"uri": deployment.rows(num_rows, "evaluation")}}
    settings = Settings(state=root, device="cpu", tokens_per_batch=512)
    progress.stage(Stage.search)
    record = new_record(deployment.request(family, task, **fields))
    job = prepare(record, root, settings, deployment.storage, progress)
    return SearchJob(job.context, job.task_model, evaluate(job.context, job.task_model), progress)


def run_job(root: Path, progress: Recorder | None = None, **fields: Any) -> tuple[Result, Path]:
    """The result of a job with 80 evaluation rows, and the directory of its downloaded files."""
    torch.set_num_threads(1)
    deployment = Deployment(root)
    task = {"evaluation": {"uri": deployment.rows(80, "evaluation")}}
    result = deployment.run(deployment.request(task=task, **fields), progress)
    deployment.download(root / "downloaded")
    return result, root / "downloaded"
