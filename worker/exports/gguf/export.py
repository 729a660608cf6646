"""GGUF: writes the files for llama.cpp and compares them with the slim model."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.contract.answers.result import Export, ExportedFile
from service.contract.options import K_QUANTS, Format, GgufType
from service.exports.gguf import architecture
from service.storage.artifact_names import MODEL
from worker.exports.gguf import check as gguf_check
from worker.exports.gguf import k_quants
from worker.exports.gguf.file import write_gguf
from worker.exports.questions import Questions, questions_of
from worker.exports.source import ExportSource

BLOCK, K_BLOCK = 32, 256  # weights of a row that share a scale: of Q8_0, and of the K-quants
SOURCES = (GgufType.f32, GgufType.bf16, GgufType.f16)  # types that a quantiser reads, the best first


def export(source: ExportSource, directory: Path) -> Export:
    """Write a file of each type that is asked for. Raises ExportFailed."""
    form, exact, questions = form_of(source), source.scratch / "exact.gguf", questions_of(source)
    write_gguf(source, exact, form, GgufType.f32, block_of(source))
    checked = gguf_check.check(source, exact, questions)
    kinds, notes = written_types(source.output.gguf_types), list(_notes(source, directory.name))
    paths = {kind: directory / file_name(kind) for kind in kinds}
    files = [_write(source, exact, path, form, kind, questions) for kind, path in paths.items()]
    exact.unlink()
    return Export(
        format=Format.gguf,
        directory=directory.name,
        architecture=form,
        files=files,
        bytes=sum(file.bytes for file in files),
        checked_by=checked.by,
        max_abs_logit_difference=checked.difference,
        tolerance=checked.tolerance,
        command=command(files),
        notes=notes,
    )


def form_of(source: ExportSource) -> str:
    """The architecture of the file."""
    sizes, config = source.layers[0], source.config
    fills = sizes.heads * source.head_size == config.hidden_size
    return architecture(config.model_type, own_widths=source.own_widths, heads_fill_hidden_size=fills)


def file_name(kind: GgufType) -> str:
    """The name of the file of a type, such as `model-Q8_0.gguf`."""
    return f"{MODEL}-{kind.upper()}.gguf"


def written_types(asked: Sequence[GgufType]) -> list[GgufType]:
    """The types that this worker writes. Where it has no quantiser, K-quants are left to a command, which needs a file
    in half precision or more."""
    if k_quants.can_quantise() or not set(K_QUANTS) & set(asked):
        return list(asked)
    written = [kind for kind in asked if kind not in K_QUANTS]
    return written if set(SOURCES) & set(written) else [*written, GgufType.f16]


def block_of(source: ExportSource) -> int:
    """What feed-forward widths are multiples of: K-quants need longer rows, where the hidden size allows them."""
    has_k_quants = bool(set(K_QUANTS) & set(source.output.gguf_types))
    return K_BLOCK if has_k_quants and source.config.hidden_size % K_BLOCK == 0 else BLOCK


def command(files: Sequence[ExportedFile]) -> str:
    """The command that serves the file of the type that was asked for first."""
    return f"llama-server -m {files[0].name}"


def _notes(source: ExportSource, directory: str) -> Iterator[str]:
    """What the K-quants that are asked for need."""
    asked, size = source.output.gguf_types, source.config.hidden_size
    k_types = [kind for kind in asked if kind in K_QUANTS]
    if k_types and size % K_BLOCK:
        yield (
            f"The hidden size {size} is no multiple of {K_BLOCK}, which K-quants need: llama.cpp stores matrices with "
            "rows of this length in other types of 4 to 8 bits."
        )
    written = written_types(asked)
    for kind in k_types:
        if kind not in written:
            best = next(each for each in SOURCES if each in written)
            yield (
                f"The worker has no llama-quantize. This command writes the file: llama-quantize "
                f"{directory}/{file_name(best)} {directory}/{file_name(kind)} {kind.upper()}"
            )


def _write(
    source: ExportSource, exact: Path, path: Path, form: str, kind: GgufType, questions: Questions
) -> ExportedFile:
    """Write a file of one type, and measure its logits where llama.cpp is at hand."""
    if kind is GgufType.f32:
        shutil.copyfile(exact, path)
    elif kind in K_QUANTS:
        k_quants.quantise(source, exact, path, kind)
    else:
        write_gguf(source, path, form, kind, block_of(source))
    return ExportedFile(
        name=f"{path.parent.name}/{path.name}",
        bytes=path.stat().st_size,
        dtype=kind,
        max_abs_logit_difference=gguf_check.difference(source, path, questions),
    )
