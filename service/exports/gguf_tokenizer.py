"""The tokenizers that llama.cpp splits texts with as tokenizer.json says.

A GGUF file names its pre-tokenizer. The name is chosen by what tokenizer.json does, never by the model's own name: a
model that was made from another may have a tokenizer of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenizerKind:
    """The names of a tokenizer in a GGUF file: `model` is gpt2 for byte-level BPE."""

    model: str
    pre: str


def tokenizer_kind(tokenizer: Mapping[str, Any]) -> TokenizerKind | None:
    """The kind of a tokenizer.json; None where llama.cpp has none that is equal."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        return None
    steps = _steps(tokenizer.get("pre_tokenizer"))
    pre = PRE_TOKENIZERS.get(tuple(map(_described, steps)))
    return TokenizerKind("gpt2", pre) if pre is not None else None


def against_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Why llama.cpp cannot split texts as this tokenizer.json does; None if it can."""
    if tokenizer_kind(tokenizer) is not None:
        return None
    return (
        "llama.cpp has no tokenizer that splits texts as the tokenizer.json of this model does: leave `gguf` out of "
        "`output.formats`"
    )


def _steps(pre_tokenizer: Any) -> list[Mapping[str, Any]]:
    """The steps of a pre-tokenizer, one after the other."""
    if not isinstance(pre_tokenizer, Mapping):
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [step for step in pre_tokenizer.get("pretokenizers") or () if isinstance(step, Mapping)]
    return [pre_tokenizer]


def _described(step: Mapping[str, Any]) -> str:
    """What a step does, in a word or as a regular expression."""
    kind = str(step.get("type"))
    if kind == "ByteLevel":
        if step.get("add_prefix_space"):
            return "space"
        return WORDS if step.get("use_regex", True) else BYTES
    return kind


BYTES = "bytes"
WORDS = "words of GPT-2"  # then bytes
# Steps -> the name in GGUF.
PRE_TOKENIZERS: dict[tuple[str, ...], str] = {(WORDS,): "gpt-2"}
