"""Whether a GGUF file computes what the slim model computes.

With llama.cpp at hand it answers, and splits texts. Otherwise the file is read back in another way than it was written:
by transformers, and by `gguf_reference` where transformers has no reader of its architecture.
"""

from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import ExportFailed, InvalidModel
from worker.exports.checkpoint_logits import checkpoint_logits
from worker.exports.gguf import decoder_reference, llama_cpp
from worker.exports.gguf import reference as gguf_reference
from worker.exports.questions import Questions
from worker.exports.source import ExportSource
from worker.sources.gguf import convert_gguf

# The greatest difference of a logit that counts as rounding, relative to the greatest logit. llama.cpp looks up the
# gelu of Gemma in a table of float16.
TOLERANCE, WITH_TABLE = 1e-4, 3e-3
GELUS = ("gemma2", "gemma3_text")


@dataclass(frozen=True)
class Checked:
    """How a file was compared with the slim model, and how far its logits are."""

    by: str
    difference: float
    tolerance: float


def check(source: ExportSource, path: Path, questions: Questions) -> Checked:
    """Compare a file in float32. Raises ExportFailed where its logits or, by llama.cpp, its tokens differ."""
    if llama_cpp.has_llama_cpp():
        checked = _by_llama_cpp(source, path, questions)
    elif gguf_reference.is_only_reader(path):
        file = gguf_reference.GgufModel(path)
        found = [decoder_reference.logits(file, tokens) for tokens in questions.tokens]
        by = "Taskslim's own reading of the file; this worker has no llama.cpp"
        checked = Checked(by, questions.difference(found), TOLERANCE * questions.greatest)
    else:
        checked = _by_transformers(source, path, questions)
    if not checked.difference <= checked.tolerance:
        raise ExportFailed(
            f"the logits of the GGUF file differ by {checked.difference:.3g}, more than the tolerance of "
            f"{checked.tolerance:.3g}, computed by {checked.by}"
        )
    return checked


def difference(source: ExportSource, path: Path, questions: Questions) -> float | None:
    """How far the logits of a file are, whose weights may be rounded; None without llama.cpp. Raises ExportFailed."""
    if not llama_cpp.has_llama_cpp():
        return None
    return questions.difference(llama_cpp.ask(source, path, questions).logits)


def _by_llama_cpp(source: ExportSource, path: Path, questions: Questions) -> Checked:
    answers = llama_cpp.ask(source, path, questions)
    for expected, found in ((questions.text_tokens, answers.tokens), (questions.framed_tokens, answers.framed)):
        for text, mine, theirs in zip(questions.texts, expected, found, strict=True):
            if mine != theirs:
                raise ExportFailed(f"llama.cpp splits the text {text[:60]!r} into other tokens than the checkpoint")
    share = WITH_TABLE if source.config.model_type in GELUS else TOLERANCE
    return Checked(llama_cpp.described(), questions.difference(answers.logits), share * questions.greatest)


def _by_transformers(source: ExportSource, path: Path, questions: Questions) -> Checked:
    try:
        directory = convert_gguf(path, source.scratch / "gguf-cache")
    except InvalidModel as error:
        raise ExportFailed(f"transformers cannot read the GGUF file: {error.message}") from error
    found = checkpoint_logits(directory, questions.tokens, source.scratch, source.while_waiting)
    by = "transformers, which read the file; this worker has no llama.cpp"
    return Checked(by, questions.difference(found), TOLERANCE * questions.greatest)
