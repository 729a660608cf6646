"""The tokenizers that llama.cpp splits texts with as tokenizer.json says.

A GGUF file names its tokenizer and its pre-tokenizer. The names are chosen by what tokenizer.json does, never by the
model's own name: a model that was made from another may have a tokenizer of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BYTES, WORDS, DIGITS, SPACES = "bytes", "words of GPT-2, then bytes", "digits one by one", "spaces"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
START = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = rf"{START}{UPPER}*{LOWER}+|{START}{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + (
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# (the steps, whether a word that is a token stays whole) -> the name of the pre-tokenizer in a file.
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((WORDS,), False): "gpt-2",
    ((DIGITS, WORDS), False): "smollm",
    ((ENDINGS + r"\p{N}{1,3}" + OTHERS, BYTES), True): "llama-bpe",
    ((ENDINGS + r"\p{N}{1,3}" + OTHERS, BYTES), False): "smaug-bpe",
    ((ENDINGS + r"\p{N}" + OTHERS, BYTES), False): "qwen2",
    ((TEKKEN, BYTES), True): "tekken",
}


@dataclass(frozen=True)
class TokenizerKind:
    """The names of a tokenizer in a file: `model` is gpt2 for byte-level BPE, llama for that of SentencePiece."""

    model: str
    pre: str
    adds_space: bool = False  # whether a space is put before a text; of SentencePiece


def tokenizer_kind(tokenizer: Mapping[str, Any]) -> TokenizerKind | None:
    """The kind of a tokenizer.json; None where llama.cpp has none that is equal."""
    model = _part(tokenizer, "model")
    if model.get("type") != "BPE":
        return None
    changes = list(_steps(tokenizer.get("normalizer"), "normalizers"))
    steps = tuple(map(_described, _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")))
    if model.get("byte_fallback"):
        return _of_sentencepiece(changes, steps)
    # llama.cpp leaves texts as they are: one that is not in the form NFC may get other tokens.
    if any(change.get("type") != "NFC" for change in changes):
        return None
    pre = PRE_TOKENIZERS.get((steps, bool(model.get("ignore_merges"))))
    return TokenizerKind("gpt2", pre) if pre is not None else None


def against_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Why llama.cpp cannot split texts as this tokenizer.json does; None if it can."""
    if tokenizer_kind(tokenizer) is not None:
        return None
    return (
        "llama.cpp has no tokenizer that splits texts as the tokenizer.json of this model does: leave `gguf` out of "
        "`output.formats`"
    )


def _of_sentencepiece(changes: list[Mapping[str, Any]], steps: tuple[str, ...]) -> TokenizerKind | None:
    """The tokenizer of SentencePiece: spaces become the character U+2581, one may come before the text."""
    if not set(steps) <= {SPACES, "Metaspace", "Metaspace with a space"}:
        return None
    kinds = [str(change.get("type")) for change in changes]
    if not set(kinds) <= {"Prepend", "Replace"} or (not kinds and not steps):
        return None
    return TokenizerKind("llama", "default", "Prepend" in kinds or "Metaspace with a space" in steps)


def _steps(value: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or of a pre-tokenizer, one after the other."""
    if isinstance(value, Mapping):
        listed = value.get(inner) if value.get("type") == "Sequence" else [value]
        yield from (step for step in listed or () if isinstance(step, Mapping))


def _described(step: Mapping[str, Any]) -> str:
    """What a step does, in words or as a regular expression."""
    kind, pattern = str(step.get("type")), _part(step, "pattern")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return WORDS if step.get("use_regex", True) else BYTES
    if kind == "Digits" and step.get("individual_digits"):
        return DIGITS
    if kind == "Split" and step.get("behavior") == "Isolated" and "Regex" in pattern and not step.get("invert"):
        return str(pattern["Regex"])
    if kind == "Split" and pattern.get("String") == " ":
        return SPACES
    if kind == "Metaspace":
        return "Metaspace" if step.get("prepend_scheme") == "never" else "Metaspace with a space"
    return f"other {kind}"


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}
