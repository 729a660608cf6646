"""The artifacts of a job: saves and verifies its checkpoints, saves the kept indices, and uploads every file."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from service.contract.answers.resources import Manifest, StoredFile
from service.contract.answers.result import Verified, Widths
from service.contract.options import Format
from service.jobs.leases import LeaseLost
from service.storage.artifact_names import MODEL, TASK_FILE, kept_name
from service.storage.keys import attempt_prefix, manifest_key
from worker.checkpoints import verification
from worker.checkpoints.head_bias import add_to_bias
from worker.checkpoints.kept_indices import Origin, save_kept, weight_digests
from worker.checkpoints.saving import save_model
from worker.data.provenance import versions
from worker.reporting import findings, task_file
from worker.search.candidates import Candidate
from worker.slimming.units.groups import Group
from worker.stages.context import JobContext
from worker.stages.inputs import Sources
from worker.stages.task_model import TaskModel


def output_directory(context: JobContext) -> Path:
    """The directory of the files that the job uploads."""
    found = context.scratch / "output"
    found.mkdir(exist_ok=True)
    return found


def checkpoint_directory(context: JobContext, name: str = MODEL) -> Path:
    """The directory of a checkpoint. It is not uploaded where the job asks for other formats alone."""
    is_uploaded = Format.safetensors in context.job.request.output.formats
    return (output_directory(context) if is_uploaded else context.scratch) / name


def probe_path(context: JobContext) -> Path:
    """The file with the logits that the checkpoint saved last has to give."""
    return context.scratch / "probe.safetensors"


def start_verification(context: JobContext) -> None:
    """Start the process that will verify the next checkpoint, which does its imports beside the job."""
    context.verifier = context.processes.enter_context(verification.start())


def _save_and_verify(
    context: JobContext,
    task_model: TaskModel,
    offset_V: Tensor | None,
    checkpoint: Path,
    while_waiting: Callable[[], None],
) -> Verified:
    """Save the checkpoint, and verify in a new process that it gives the logits of the model's probe.

    `offset_V` are numbers for the classes of its head, which are added to its bias and to the logits of the probe.
    `while_waiting` is called until the process has ended. Raises VerificationFailed.
    """
    loaded, probe = task_model.loaded, task_model.probe
    assert probe is not None
    if offset_V is not None:
        added_V = add_to_bias(loaded.model, offset_V, loaded.dtype)
        probe = replace(probe, logits=probe.logits + added_V.to(probe.logits.dtype))
    save_model(loaded, checkpoint)
    path = probe_path(context)
    probe.write(path)
    started, context.verifier = context.verifier, None
    return verification.verify(checkpoint, path, while_waiting=while_waiting, started=started)


def save(
    context: JobContext,
    sources: Sources,
    tasks: Sequence[TaskModel],
    groups: list[Group],
    candidate: Candidate,
    name: str = MODEL,
    while_waiting: Callable[[], None] | None = None,
) -> Verified:
    """Save and verify the checkpoint of a cut model, and save the indices of the units that it keeps.

    `tasks` is the model with each of its tasks and their label offsets, the job's own task first.
    `name` is that of the checkpoint's directory. `while_waiting` is called during the verification, and by default
    reports the progress of one checkpoint. Raises VerificationFailed.
    """
    directory = checkpoint_directory(context, name)
    while_waiting = while_waiting or (lambda: context.progress.advance(0, 1, "checkpoints"))
    has_others = bool(context.job.request.observe) or context.job.request.general is not None
    offset_V = task_file.class_offsets(tasks, has_others=has_others)
    verified = _save_and_verify(context, tasks[0], offset_V, directory, while_waiting)
    shipped = task_file.build(tasks, is_folded=offset_V is not None)
    (directory / TASK_FILE).write_text(shipped.model_dump_json(indent=2) + "\n", encoding="utf-8")
    origin = _origin(context, sources, tasks[0], findings.widths(groups, candidate.kept), directory)
    head_offsets = None if offset_V is None else offset_V.tolist()
    trained = context.job.request.recovery if name == MODEL else None
    origin = origin.model_copy(
        update={"tasks": shipped, "head_offsets": head_offsets, "recovery": trained and trained.method}
    )
    save_kept(candidate.kept, origin, output_directory(context) / kept_name(name))
    return verified


def _origin(
    context: JobContext, sources: Sources, task_model: TaskModel, widths: list[Widths], directory: Path
) -> Origin:
    """The model that kept indices belong to, and the digests of the checkpoint in `directory` that they give."""
    request = context.job.request
    return Origin(
        model=request.model,
        model_digest=sources.digests["model"],
        adapter_digest=sources.digests.get("adapter"),
        family=task_model.loaded.family.model_type,
        units=request.method.units,
        layout=request.output.layout,
        repair=request.method.repair,
        merge=request.method.merge,
        widths=widths,
        weights=weight_digests(directory),
        versions=versions(),
    )


def upload(context: JobContext) -> None:
    """Store every file of the output, and then the manifest, which makes them the result of the job.

    Raises LeaseLost where another attempt has stored its manifest.
    """
    root = output_directory(context)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    total, done, files = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        name, size = str(path.relative_to(root)), path.stat().st_size
        sha256 = context.storage.put_file(path, _prefix(context) + name)
        files.append(StoredFile(name=name, size=size, sha256=sha256))
        done += size
        context.on_bytes(done, total)
    manifest = Manifest(job_id=context.job.id, attempt=context.job.attempt, files=files)
    key = manifest_key(context.job.tenant, context.job.id)
    if not context.storage.put_if_absent(manifest.model_dump_json().encode(), key):
        raise LeaseLost(f"another attempt of job {context.job.id} has stored its manifest")


def _prefix(context: JobContext) -> str:
    return attempt_prefix(context.job.tenant, context.job.id, context.job.attempt)
