"""Jobs before the search for their target, and whole jobs with a target, on tiny models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from service.contract import presets
from service.contract.job import Stage
from service.contract.result import Result
from service.families.table import FAMILIES
from service.jobs.record import new_record
from service.settings import Settings
from tests.support.pipeline_jobs import Deployment, Recorder
from worker.search.candidates import Candidates
from worker.search.chosen import ChosenModel
from worker.search.search import search
from worker.slimming.scoring.iterative import ScorePath, schedule
from worker.stages import evaluation_sets, inputs
from worker.stages.attribution import attribute, highest_requested_ratio
from worker.stages.context import JobContext
from worker.stages.slim import locate_groups
from worker.stages.task_model import Measured, TaskModel, evaluate, load

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
        request = self.context.job.request
        ratios = schedule(highest_requested_ratio(request.target), request.method.steps)
        return attribute(self.context, self.task_model, ratios)

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
    task = classes if family in FAMILIES and FAMILIES[family].kind == "classifier" else {}
    task = task | fields.pop("task", {}) | {"evaluation": {"uri": deployment.rows(num_rows, "evaluation")}}
    job = new_record(deployment.request(family, task, **fields))
    scratch = deployment.root / "scratch" / job.id
    scratch.mkdir(parents=True)
    resolved = presets.resolve(job.request.slimmed_for[0])
    here = Settings(state=root, device="cpu", tokens_per_batch=512)
    context = JobContext(job, resolved, here, deployment.storage, progress, scratch)
    progress.stage(Stage.search)
    sources = inputs.fetch(context)
    loaded = load(context, sources.model, sources.adapter)
    task_model = evaluation_sets.own(evaluation_sets.build(context, loaded, sources.rows)).task_model
    return SearchJob(context, task_model, evaluate(context, task_model), progress)


def run_job(root: Path, progress: Recorder | None = None, **fields: Any) -> tuple[Result, Path]:
    """The result of a job with 80 evaluation rows, and the directory of its downloaded files."""
    torch.set_num_threads(1)
    deployment = Deployment(root)
    task = {"evaluation": {"uri": deployment.rows(80, "evaluation")}}
    result = deployment.run(deployment.request(task=task, **fields), progress)
    deployment.download(root / "downloaded")
    return result, root / "downloaded"
