"""Jobs that remove tokens, in the formats of other runtimes: each takes the slim tokenizer and the slim rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from service.contract.options import Format
from tests.support.exports import CYLLAMA, MLX, with_packages
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import causal
from tests.worker.exports.test_llama_cpp import TOKENIZERS, VOCABULARY
from tests.worker.exports.test_mlx_lm import THETA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FORMATS = ["safetensors", "gguf", "mlx", "onnx"]
# Name -> the special tokens of a tokenizer of test_llama_cpp.py.
SPECIAL = {
    "gpt-2": {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>"},
    "llama-bpe": {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>"},
    "sentencepiece": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"},
}


@pytest.fixture(autouse=True)
def with_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    with_packages(monkeypatch, CYLLAMA, MLX)


@pytest.mark.parametrize("layout", ["uniform", "per_layer"])
@pytest.mark.parametrize("name", SPECIAL)
def test_a_job_without_some_tokens_is_verified_by_each_runtime(name: str, layout: str, tmp_path: Path) -> None:
    make: Callable[[Path], Any] = TOKENIZERS[name]
    deployment, model = Deployment(tmp_path), causal("llama", vocab_size=VOCABULARY, rope_parameters=THETA)
    model.save_pretrained(tmp_path / "llama")
    PreTrainedTokenizerFast(tokenizer_object=make(tmp_path), **SPECIAL[name]).save_pretrained(tmp_path / "llama")
    method = {"units": ["ffn", "heads", "vocabulary"], "scope": "global" if layout == "per_layer" else "layer"}
    output = {"round_to": 8, "layout": layout, "formats": FORMATS, "gguf_types": ["f32"]}
    result = deployment.run(deployment.request("llama", method=method, output=output))
    [rows] = [(each.dense, each.slim) for each in result.widths if each.unit == "vocabulary"]
    assert rows[1] < rows[0] == VOCABULARY
    found = {export.format: export for export in result.exports}
    assert {name: export.checked_by for name, export in found.items()} == {
        Format.gguf: "llama.cpp (cyllama 0.2.18)",
        Format.mlx: "mlx-lm 0.32.2",
        Format.onnx: "onnxruntime",
    }
    assert all(export.max_abs_logit_difference <= export.tolerance for export in found.values())
    deployment.download(tmp_path / "files")
    slim, *others = (
        AutoTokenizer.from_pretrained(tmp_path / "files" / directory)
        for directory in ("model", "model-mlx", "model-onnx")
    )
    assert len(slim) <= rows[1]
    assert [other.get_vocab() for other in others] == [slim.get_vocab()] * 2
