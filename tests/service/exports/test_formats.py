"""Which slim models and tokenizers the formats of other runtimes take, and which runtimes a plan names for them."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.options import EXPORTS, Format
from service.contract.request.output import Output
from service.exports.formats import FORMATS
from service.exports.gguf import PER_LAYER, UNIFORM, architecture
from service.exports.gguf_tokenizer import PRE_TOKENIZERS, TokenizerKind, tokenizer_kind
from service.models.families.table import FAMILIES
from service.planning.plan import plan
from service.reports.runtime_names import RUNTIME_OF
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.planning import request_for
from worker.exports.formats import EXPORTERS

UNEQUAL: dict[str, Any] = {"method": {"scope": "global"}, "output": {"round_to": 8, "layout": "per_layer"}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def test_every_format_has_rules_a_writer_and_a_runtime() -> None:
    assert set(EXPORTS) == FORMATS.keys() == EXPORTERS.keys() == RUNTIME_OF.keys()


def loads(directory: Path, family: str, access: Access, **fields: Any) -> dict[str, Format | None]:
    """Runtime that loads the slim model -> the format that it loads, or None for the checkpoint."""
    checkpoints.write(directory / family, family)
    planned = plan(request_for(directory / family, **fields), access)
    return {runtime.name: runtime.export for runtime in planned.runtimes if runtime.loads}


def test_a_plan_names_the_formats_of_layers_that_differ(tmp_path: Path, access: Access) -> None:
    every = {"transformers": None, "vllm": None, "onnxruntime": Format.onnx}
    both = {"llama.cpp": Format.gguf, "mlx-lm": Format.mlx}
    assert loads(tmp_path, "llama", access, **UNEQUAL) == every | both
    assert loads(tmp_path, "qwen2", access, **UNEQUAL) == every | {"llama.cpp": Format.gguf}
    assert loads(tmp_path, "qwen3", access, **UNEQUAL) == every | {"mlx-lm": Format.mlx}
    assert loads(tmp_path, "gemma2", access, **UNEQUAL) == every


def test_a_plan_names_the_format_of_a_qwen2_with_fewer_heads(tmp_path: Path, access: Access) -> None:
    fewer = {"method": {"units": ["heads"]}, "ratio": 0.5}
    formats = {"llama.cpp": Format.gguf, "onnxruntime": Format.onnx}
    assert loads(tmp_path, "qwen2", access, **fewer) == {"transformers": None} | formats


def test_the_architecture_follows_the_layout_and_the_heads() -> None:
    assert UNIFORM.keys() >= PER_LAYER.keys()
    assert all(FAMILIES[name].gguf in ("", form) for name, form in UNIFORM.items())
    for family, fills, form in (("qwen2", True, "qwen2"), ("qwen2", False, "deci"), ("qwen3", False, "qwen3")):
        assert architecture(family, own_widths=False, heads_fill_hidden_size=fills) == form
    assert architecture("mistral", own_widths=True, heads_fill_hidden_size=True) == "deci"


def bpe(*steps: dict[str, Any], normalizer: Any = None, **model: Any) -> dict[str, Any]:
    """A tokenizer.json."""
    pre = {"type": "Sequence", "pretokenizers": list(steps)} if len(steps) != 1 else steps[0]
    return {"model": {"type": "BPE"} | model, "pre_tokenizer": pre, "normalizer": normalizer}


def split(pattern: str, **changes: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} | changes


def test_the_tokenizer_is_known_by_what_it_does() -> None:
    bytes_alone = BYTE_LEVEL | {"use_regex": False}
    for (steps, whole), pre in PRE_TOKENIZERS.items():
        if steps[-1] == "bytes":
            found = tokenizer_kind(bpe(split(steps[0]), bytes_alone, ignore_merges=whole))
            assert found == TokenizerKind("gpt2", pre)
            assert tokenizer_kind(bpe(split(steps[0], invert=True), bytes_alone, ignore_merges=whole)) is None
    digits = {"type": "Digits", "individual_digits": True}
    assert tokenizer_kind(bpe(BYTE_LEVEL)) == TokenizerKind("gpt2", "gpt-2")
    assert tokenizer_kind(bpe(digits, BYTE_LEVEL)) == TokenizerKind("gpt2", "smollm")
    assert tokenizer_kind(bpe(BYTE_LEVEL, normalizer={"type": "NFC"})) == TokenizerKind("gpt2", "gpt-2")


def test_the_tokenizer_of_sentencepiece_says_whether_it_adds_a_space() -> None:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    both = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}
    for normalizer, adds in ((replace, False), (both, True)):
        tokenizer = bpe(normalizer=normalizer, byte_fallback=True) | {"pre_tokenizer": None}
        assert tokenizer_kind(tokenizer) == TokenizerKind("llama", "default", adds)


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"type": "Unigram"}},
        {"model": {"type": "WordPiece"}},
        bpe(split(r"\s+")),
        bpe(BYTE_LEVEL | {"add_prefix_space": True}),
        bpe(BYTE_LEVEL, ignore_merges=True),
        bpe(BYTE_LEVEL, normalizer={"type": "Lowercase"}),
        bpe({"type": "Whitespace"}, byte_fallback=True),
        {},
    ],
    ids=json.dumps,
)
def test_other_tokenizers_are_refused(tokenizer: dict[str, Any]) -> None:
    reason = FORMATS[Format.gguf].against_tokenizer(tokenizer)
    assert reason is not None
    assert "leave `gguf` out" in reason


@pytest.mark.parametrize(
    "output",
    [
        {"gguf_types": ["f16"]},
        {"formats": ["gguf", "gguf"]},
        {"formats": ["gguf"], "gguf_types": ["q8_0", "q8_0"]},
        {"formats": ["gguf"], "gguf_types": []},
    ],
)
def test_types_without_effect_or_twice_are_refused(output: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Output.model_validate(output)
