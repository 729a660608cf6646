"""What a job leaves: checkpoints, written and proved to be the model in memory, indices, and all of it in storage."""

from pathlib import Path

from service.contract.options import Format
from service.contract.resources import Manifest, StoredFile
from service.contract.result import Verified, Widths
from service.jobs.store import LeaseLost
from service.storage.keys import attempt_prefix, manifest_key
from service.storage.object_store import digest_file
from worker.checkpoints import kept_indices, loading, verification
from worker.checkpoints.kept_indices import Origin
from worker.data import batching
from worker.data.provenance import versions
from worker.reporting import findings
from worker.search.candidates import Candidate
from worker.slimming.units import Group
from worker.stages.context import JobContext
from worker.stages.inputs import Sources
from worker.stages.task_model import TaskModel

PROBE_EXAMPLES = 4


def directory(context: JobContext) -> Path:
    """Where what the job will upload lies."""
    found = context.scratch / "output"
    found.mkdir(exist_ok=True)
    return found


def checkpoint(context: JobContext, name: str) -> Path:
    """Where a checkpoint is written: beside what will be uploaded, where the job asks for indices alone."""
    return (directory(context) if Format.safetensors in context.job.request.output.formats else context.scratch) / name


def write(context: JobContext, task_model: TaskModel, checkpoint: Path) -> Verified:
    """Write the checkpoint, and prove it equal to the model in memory on some of the evaluation rows.

    Raises VerificationFailed.
    """
    loading.save(task_model.loaded, checkpoint)
    loaded, probe = task_model.loaded, context.scratch / "probe.safetensors"
    examples = task_model.evaluation.examples[:PROBE_EXAMPLES]
    batch = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)[0]
    verification.write_probe(loaded.model, batch.inputs, probe)
    return verification.verify(
        checkpoint, probe, while_waiting=lambda: context.progress.advance(0, len(batch.example_B), "rows")
    )


def store(
    context: JobContext, sources: Sources, slim: TaskModel, groups: list[Group], candidate: Candidate, name: str = ""
) -> Verified:
    """Write a cut model's checkpoint and the indices that it keeps, and prove it: `model` and `kept`, with a `name`
    `model-0.3` and `kept-0.3`. Raises VerificationFailed."""
    place = checkpoint(context, f"model{name}")
    verified = write(context, slim, place)
    made = _origin(context, sources, slim, findings.widths(groups, candidate.kept), place)
    kept_indices.save(candidate.kept, made, directory(context) / f"kept{name}.safetensors")
    return verified


def _origin(
    context: JobContext, sources: Sources, task_model: TaskModel, widths: list[Widths], directory: Path
) -> Origin:
    """What the kept indices are of, and the checkpoint in `directory` that they make of it."""
    request = context.job.request
    return Origin(
        model=request.model,
        model_digest=sources.digests["model"],
        adapter_digest=sources.digests.get("adapter"),
        family=task_model.loaded.family.model_type,
        units=request.method.units,
        layout=request.output.layout,
        repair=request.method.repair,
        widths=widths,
        weights=kept_indices.digests(directory),
        versions=versions(),
    )


def upload(context: JobContext) -> None:
    """Store every file of the output, then the manifest, which makes them the job's result."""
    root = directory(context)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    total, done, files = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        name, size = str(path.relative_to(root)), path.stat().st_size
        context.storage.put_file(path, _prefix(context) + name)
        files.append(StoredFile(name=name, size=size, sha256=digest_file(path)))
        done += size
        context.on_bytes(done, total)
    manifest = Manifest(job_id=context.job.id, attempt=context.job.attempt, files=files)
    key = manifest_key(context.job.tenant, context.job.id)
    if not context.storage.put_if_absent(manifest.model_dump_json().encode(), key):
        raise LeaseLost(f"another attempt of job {context.job.id} has left its manifest")


def _prefix(context: JobContext) -> str:
    return attempt_prefix(context.job.tenant, context.job.id, context.job.attempt)
