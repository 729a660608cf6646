"""Writes the slim model in the formats of other runtimes that a job asks for, and verifies each."""

import shutil

from service.contract.answers.result import Export
from service.contract.options import EXPORTS
from service.storage.artifact_names import TASK_FILE, export_name
from worker.exports.formats import EXPORTERS
from worker.exports.source import ExportSource
from worker.reporting import artifacts
from worker.stages.context import JobContext


def export(context: JobContext) -> list[Export]:
    """Write the files of each format, from the job's own checkpoint, into a directory of their own.

    Raises ExportFailed where they do not compute what the checkpoint computes.
    """
    output, found = context.job.request.output, []
    formats = [name for name in EXPORTS if name in output.formats]
    checkpoint = artifacts.checkpoint_directory(context)
    for done, name in enumerate(formats):

        def while_waiting(done: int = done) -> None:
            context.progress.advance(done, len(formats), "formats")

        while_waiting()
        source = ExportSource(checkpoint, artifacts.probe_path(context), output, context.scratch, while_waiting)
        directory = artifacts.output_directory(context) / export_name(name)
        directory.mkdir()
        found.append(EXPORTERS[name](source, directory))
        shutil.copyfile(checkpoint / TASK_FILE, directory / TASK_FILE)
    return found
