"""What a request names, brought to this machine: model, adapter and rows."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from service.contract.errors import InvalidModel, TaskslimError
from service.contract.report import Ancestor
from service.contract.rows import Row
from service.sources.access import Access, blaming
from service.sources.fingerprints import Fingerprints, fingerprints
from service.sources.job_checkpoints import JOB, JobModel, job_model
from service.sources.readers import scheme_of
from worker.checkpoints import loading
from worker.data.loading import Location, load_rows
from worker.data.provenance import digest_directory
from worker.stages import domains, observed, side_tasks
from worker.stages.context import JobContext
from worker.stages.lineage import lineage
from worker.stages.method import options

log = structlog.get_logger()


@dataclass(frozen=True)
class Sources:
    """What the request names, on this machine."""

    model: Path
    adapter: Path | None
    calibration: list[Row]
    evaluation: list[Row]
    partners: list[side_tasks.TaskRows]
    evaluations: dict[str, list[Row]]
    observed: list[list[Row]]
    digests: dict[str, str]  # of model and adapter
    lineage: list[Ancestor]
    fingerprints: Fingerprints | None


def fetch(context: JobContext) -> Sources:
    """Bring model, adapter and rows here; rows first, since they are small and as likely to be wrong.

    Raises the errors of `service.contract.errors` for what is not there or cannot be read, and whatever the job's
    progress does.
    """
    request, roots = context.job.request, context.settings.local_roots
    options(context)  # refuses what the task cannot serve before anything is fetched
    location = Location(context.storage, context.job.tenant, context.scratch / "rows", roots)
    calibration, evaluation_rows = load_rows(context.task, location)
    others_of_union = side_tasks.read(request.placed_tasks, location)
    sets = domains.read(context.task, location)
    others = observed.read(request.observe, location)
    cache = context.settings.state / "cache"
    left, ancestors = _left_by_job(context)
    model = loading.fetch(
        request.model, scratch=context.scratch, cache=cache, roots=roots, on_bytes=context.on_bytes, left=left
    )
    uri, adapter = request.model.adapter_uri, None
    if uri:
        adapter = loading.fetch_adapter(uri, scratch=context.scratch, roots=roots, on_bytes=context.on_bytes)
    parts = {"model": model} | ({"adapter": adapter} if adapter else {})
    return Sources(
        model=model,
        adapter=adapter,
        calibration=calibration,
        evaluation=evaluation_rows,
        partners=others_of_union,
        evaluations=sets,
        observed=others,
        digests={name: digest_directory(directory) for name, directory in parts.items()},
        lineage=ancestors,
        fingerprints=_fingerprints_of(context),
    )


def _fingerprints_of(context: JobContext) -> Fingerprints | None:
    """What a plan of the same request will look for; None where a source, fetched once, cannot be looked at again."""
    try:
        return fingerprints(
            context.job.request, Access(context.storage, context.job.tenant, True, context.settings.local_roots)
        )
    except TaskslimError:
        log.info("no plan will find the scores of this job", exc_info=True)
        return None


def _left_by_job(context: JobContext) -> tuple[JobModel | None, list[Ancestor]]:
    """(the model, the jobs that led to it) where the request names a job of the tenant. Raises InvalidModel."""
    uri = context.job.request.model.uri
    if scheme_of(uri) != JOB:
        return None, []
    with blaming("model.uri", InvalidModel):
        left = job_model(uri, context.storage, context.job.tenant)
        return left, lineage(left)
