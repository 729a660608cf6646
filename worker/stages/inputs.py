"""Fetches the model, the adapter and the rows that a request names."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from service.contract.answers.report import Ancestor, Dequantised
from service.contract.errors import InvalidModel, TaskslimError, blaming_task
from service.contract.request.synthesis import blaming_writer
from service.contract.request.task import ModelSource, Task
from service.sources.access import Access, blaming
from service.sources.fingerprints import Fingerprints, fingerprints
from service.sources.job_checkpoints import JOB, JobModel, job_model
from service.sources.readers import scheme_of
from worker.data.loading import Location, read_texts
from worker.data.provenance import digest_directory
from worker.sources.fetching import fetch_adapter, fetch_model
from worker.sources.lineage import lineage
from worker.stages.context import JobContext
from worker.stages.evaluation import evaluation_sets
from worker.stages.evaluation.evaluation_sets import RequestedRows
from worker.stages.method import options

log = structlog.get_logger()


@dataclass(frozen=True)
class WriterFiles:
    """A model that writes rows, on this machine, and the adapter that is merged into it."""

    model: Path
    adapter: Path | None


@dataclass(frozen=True)
class Sources:
    """The model, the adapter and the rows of a request, on this machine."""

    model: Path  # dequantised
    fetched_model: Path  # as it was sent
    adapter: Path | None
    rows: list[RequestedRows]  # of each evaluation set, those of the job's own task first
    texts: list[str]  # plain texts whose tokens stay in the vocabulary
    digests: dict[str, str]  # of the files of `fetched_model` and `adapter`
    dequantised: Dequantised | None  # None where the model is not quantised
    lineage: list[Ancestor]  # the jobs that made the model, the first one first
    fingerprints: Fingerprints | None
    writers: dict[str, WriterFiles]  # place of a task -> the model that its synthesis names


def fetch(context: JobContext) -> Sources:
    """Fetch the rows, the model and the adapter; the rows first, since they are small and as likely to be wrong.

    Raises the errors of `service.contract.errors` for a source that is missing or cannot be read, and whatever the
    progress of the job raises.
    """
    request, roots = context.job.request, context.settings.local_roots
    options(context)  # raises before anything is fetched where the objective does not suit the task
    location = Location(context.storage, context.job.tenant, context.scratch / "rows", roots)
    rows = evaluation_sets.read(request, context.task, location)
    texts = [text for place, task in request.placed_tasks.items() for text in _texts(place, task, location)]
    cache = context.settings.state / "cache"
    job_checkpoint, ancestors = _model_of_job(context, request.model)
    model = fetch_model(
        request.model,
        scratch=context.scratch,
        cache=cache,
        roots=roots,
        on_bytes=context.on_bytes,
        job_model=job_checkpoint,
    )
    uri, adapter = request.model.adapter_uri, None
    if uri:
        adapter = fetch_adapter(uri, scratch=context.scratch, roots=roots, on_bytes=context.on_bytes)
    parts = {"model": model.fetched} | ({"adapter": adapter} if adapter else {})
    return Sources(
        model=model.directory,
        fetched_model=model.fetched,
        adapter=adapter,
        rows=rows,
        texts=texts,
        digests={name: digest_directory(directory) for name, directory in parts.items()},
        dequantised=model.dequantised,
        lineage=ancestors,
        fingerprints=_fingerprints_of(context),
        writers=_writers(context),
    )


def _writers(context: JobContext) -> dict[str, WriterFiles]:
    """The models that tasks name to write their rows."""
    found: dict[str, WriterFiles] = {}
    for place, task in context.job.request.placed_tasks.items():
        source = task.synthesis.model if task.synthesis else None
        if source is not None:
            with blaming_task(place), blaming_writer():
                found[place] = _writer(context, source, context.scratch / f"writer-{place}")
    return found


def _writer(context: JobContext, source: ModelSource, scratch: Path) -> WriterFiles:
    scratch.mkdir()
    roots, adapter = context.settings.local_roots, None
    model = fetch_model(
        source,
        scratch=scratch,
        cache=context.settings.state / "cache",
        roots=roots,
        on_bytes=context.on_bytes,
        job_model=_model_of_job(context, source)[0],
    )
    if source.adapter_uri:
        adapter = fetch_adapter(source.adapter_uri, scratch=scratch, roots=roots, on_bytes=context.on_bytes)
    return WriterFiles(model.directory, adapter)


def _texts(place: str, task: Task, location: Location) -> list[str]:
    with blaming_task(place):
        return [] if task.texts is None else read_texts(task.texts, "task.texts", location)


def _fingerprints_of(context: JobContext) -> Fingerprints | None:
    """The fingerprints under which a plan of the same request looks for scores.

    None where a source cannot be read a second time.
    """
    try:
        return fingerprints(
            context.job.request,
            Access(context.storage, context.job.tenant, local_paths=True, roots=context.settings.local_roots),
        )
    except TaskslimError:
        log.info("plans cannot find the scores of this job: a source could not be read again", exc_info=True)
        return None


def _model_of_job(context: JobContext, source: ModelSource) -> tuple[JobModel | None, list[Ancestor]]:
    """(the model, the jobs that made it) where the request names a job of the tenant; else (None, []).

    Raises InvalidModel.
    """
    uri = source.uri
    if scheme_of(uri) != JOB:
        return None, []
    with blaming("model.uri", InvalidModel):
        model = job_model(uri, context.storage, context.job.tenant)
        return model, lineage(model)
