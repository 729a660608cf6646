"""Jobs whose sources are fetched and whose model is loaded, before anything is measured."""

from dataclasses import dataclass
from pathlib import Path

from service.contract.request import presets
from service.jobs.record import JobRecord
from service.settings import Settings
from service.storage.object_store import Storage
from worker.stages import inputs
from worker.stages.context import JobContext, StageProgress
from worker.stages.evaluation import evaluation_sets
from worker.stages.inputs import Sources
from worker.stages.task_model import TaskModel, load


@dataclass(frozen=True)
class PreparedJob:
    """A job before its first measurement."""

    context: JobContext
    sources: Sources
    task_model: TaskModel


def prepare(job: JobRecord, root: Path, settings: Settings, storage: Storage, progress: StageProgress) -> PreparedJob:
    """Fetch and load what a job needs into a directory below `root`."""
    scratch = root / "scratch" / job.id
    scratch.mkdir(parents=True)
    task = presets.resolve(job.request.slimmed_for[0])
    context = JobContext(job, task, settings, storage, progress, scratch)
    sources = inputs.fetch(context)
    sets = evaluation_sets.build(context, load(context, sources.model, sources.adapter), sources.rows)
    return PreparedJob(context, sources, evaluation_sets.own(sets).task_model)
