"""GGUF: writes the files for llama.cpp and compares them with the slim model."""

from collections.abc import Sequence
from pathlib import Path

from service.contract.errors import ExportFailed, InvalidModel, VerificationFailed
from service.contract.options import Format, GgufType
from service.contract.result import Export, ExportedFile, Verified
from service.exports.gguf import UNIFORM
from service.storage.artifact_names import MODEL
from worker.checkpoints import verification
from worker.exports.gguf_file import write_gguf
from worker.exports.source import ExportSource
from worker.sources.gguf import convert_gguf

BLOCK = 32  # weights of a row that share a scale in Q8_0


def export(source: ExportSource, directory: Path) -> Export:
    """Write a file of each type that is asked for. Raises ExportFailed."""
    architecture = UNIFORM[source.config.model_type]
    exact = source.scratch / "exact.gguf"
    write_gguf(source, exact, architecture, GgufType.f32, BLOCK)
    verified = _verify(source, exact)
    files = [_write(source, directory, architecture, kind) for kind in source.output.gguf_types]
    exact.unlink()
    return Export(
        format=Format.gguf,
        directory=directory.name,
        architecture=architecture,
        files=files,
        bytes=sum(file.bytes for file in files),
        checked_by="transformers, which read the f32 file",
        max_abs_logit_difference=verified.max_abs_logit_difference,
        tolerance=verified.tolerance,
        command=command(files),
    )


def command(files: Sequence[ExportedFile]) -> str:
    """The command that serves the smallest of the files."""
    return f"llama-server -m {min(files, key=lambda file: file.bytes).name}"


def _write(source: ExportSource, directory: Path, architecture: str, kind: GgufType) -> ExportedFile:
    path = directory / f"{MODEL}-{kind.upper()}.gguf"
    write_gguf(source, path, architecture, kind, BLOCK)
    return ExportedFile(name=f"{directory.name}/{path.name}", bytes=path.stat().st_size, dtype=kind)


def _verify(source: ExportSource, path: Path) -> Verified:
    """Compare the file, as transformers reads it, with the slim model. Raises ExportFailed."""
    try:
        directory = convert_gguf(path, source.scratch / "gguf-cache")
        return verification.verify(directory, source.probe, while_waiting=source.while_waiting)
    except (InvalidModel, VerificationFailed) as error:
        raise ExportFailed(f"the GGUF file does not compute what the checkpoint computes: {error.message}") from error
