"""Checkpoints that a job leaves: written, and proved to be the model in memory."""

from pathlib import Path

from service.schemas import Format, Verified
from worker import data, models, verification
from worker.staging import StagedJob
from worker.subject import Subject

PROBE_EXAMPLES = 4


def directory(staged: StagedJob) -> Path:
    """Where what the job will upload lies."""
    found = staged.scratch / "output"
    found.mkdir(exist_ok=True)
    return found


def checkpoint(staged: StagedJob, name: str) -> Path:
    """Where a checkpoint is written: beside what will be uploaded, where the job asks for indices alone."""
    return (directory(staged) if Format.safetensors in staged.job.request.output.formats else staged.scratch) / name


def write(staged: StagedJob, subject: Subject, checkpoint: Path) -> Verified:
    """Write the checkpoint, and prove it equal to the model in memory on some of the evaluation rows.

    Raises VerificationFailed.
    """
    models.save(subject.loaded, checkpoint)
    loaded, probe = subject.loaded, staged.scratch / "probe.safetensors"
    examples = subject.evaluation.examples[:PROBE_EXAMPLES]
    batch = data.batches(examples, subject.padding, staged.settings.tokens_per_batch)[0]
    verification.write_probe(loaded.model, batch.inputs, probe)
    return verification.verify(
        checkpoint, probe, while_waiting=lambda: staged.progress.advance(0, len(batch.example_B), "rows")
    )
