"""Slim checkpoints in mlx-lm itself: the logits are those of the checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.contract.options import Layout
from tests.support.exports import MLX, slim_source, with_packages
from tests.support.foreign_packages import installed, run_with
from tests.support.quick_verification import verifying_here
from tests.support.tiny_models import causal
from tests.worker.exports.test_llama_cpp import BOTH, UNEQUAL, deep
from worker.exports.gguf import decoder_reference
from worker.exports.mlx import export as mlx_export
from worker.exports.mlx.check import OpenElm
from worker.exports.questions import questions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

THETA = {"rope_type": "default", "rope_theta": 500.0}
# Name -> (a function that makes the model, its units, the layout, the architecture in mlx-lm).
CHECKPOINTS: dict[str, tuple[Any, list[str], Layout, str]] = {
    "llama": (lambda: causal("llama", rope_parameters=THETA), ["ffn"], Layout.uniform, "llama"),
    "unequal llama": (lambda: deep("llama", rope_parameters=THETA), BOTH, UNEQUAL, "openelm"),
    "unequal tied llama": (lambda: deep("llama", tie_word_embeddings=True), BOTH, UNEQUAL, "openelm"),
    "unequal mistral": (lambda: deep("mistral", sliding_window=None), BOTH, UNEQUAL, "openelm"),
    "unequal qwen3": (lambda: deep("qwen3"), BOTH, UNEQUAL, "openelm"),
    "unequal tied qwen3": (lambda: deep("qwen3", tie_word_embeddings=True), BOTH, UNEQUAL, "openelm"),
}
TOKENISE = """
import sys
from mlx_lm import load
for line in sys.stdin.read().splitlines():
    _, tokenizer = load(line)
    print(tokenizer.encode("a good film"), file=open(line + "/tokens", "w"))
"""


@pytest.fixture(autouse=True)
def with_mlx_lm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with_packages(monkeypatch, MLX)
    with verifying_here():
        yield


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_mlx_lm_computes_what_the_checkpoint_computes(name: str, tmp_path: Path) -> None:
    make, units, layout, architecture = CHECKPOINTS[name]
    source, directory = slim_source(tmp_path, make(), units, layout, formats=["mlx"]), tmp_path / "model-mlx"
    directory.mkdir()
    export = mlx_export.export(source, directory)
    assert (export.architecture, export.checked_by) == (architecture, "mlx-lm 0.32.2")
    assert export.max_abs_logit_difference <= export.tolerance
    if architecture == mlx_export.OPENELM:
        questions, file = questions_of(source), OpenElm(directory)
        found = [decoder_reference.logits(file, tokens) for tokens in questions.tokens]
        assert questions.difference(found) <= 1e-4 * questions.greatest
    run_with(installed(*MLX), TOKENISE, str(directory))
    assert json.loads((directory / "tokens").read_text()) == source.tokenizer("a good film").input_ids
