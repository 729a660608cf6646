"""GGUF files of slim models in llama.cpp itself: the logits and the tokens are those of the checkpoints."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from sentencepiece import SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaTokenizer, PreTrainedModel

from service.cli.demo.llama_cpp import speed
from service.contract.options import Layout
from service.exports.gguf_tokenizer import BYTES as BYTES_STEP
from service.exports.gguf_tokenizer import PRE_TOKENIZERS
from tests.support.checkpoints import CORPUS
from tests.support.exports import CYLLAMA, slim_source, with_packages
from tests.support.quick_verification import verifying_here
from tests.support.tiny_models import causal
from tests.worker.sources.test_gguf import LLAMA3
from worker.exports.gguf import decoder_reference
from worker.exports.gguf import export as gguf_export
from worker.exports.gguf import reference as gguf_reference
from worker.exports.questions import TEXTS, questions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BIASES = {"attention_bias": True, "mlp_bias": True}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
TWO = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
BOTH = ["ffn", "heads"]
UNEQUAL = Layout.per_layer


def gemma(family: str, **settings: Any) -> PreTrainedModel:
    """A Gemma whose scale is not that of its heads."""
    return causal(family, **{"query_pre_attn_scalar": 12, "num_hidden_layers": 8, "sliding_window": 4} | settings)


def deep(family: str, **settings: Any) -> PreTrainedModel:
    """A model with a layer for each of the widths that `slim_source` gives, whose widths are no multiples of 32."""
    return causal(family, **{"num_hidden_layers": 3, "num_key_value_heads": 4, "num_attention_heads": 8} | settings)


# Name -> (a function that makes the model, its units, the layout, the layers that go, the architecture of the file).
FILES: dict[str, tuple[Any, list[str], Layout, list[int], str]] = {
    "llama": (lambda: causal("llama"), BOTH, Layout.uniform, [0], "llama"),
    "llama 3": (lambda: causal("llama", rope_parameters=LLAMA3), ["ffn"], Layout.uniform, [], "llama"),
    "linear": (lambda: causal("llama", rope_parameters=LINEAR), ["ffn"], Layout.uniform, [], "llama"),
    "biases": (lambda: causal("llama", **BIASES), ["ffn"], Layout.uniform, [], "llama"),
    "tied": (lambda: causal("llama", tie_word_embeddings=True), ["ffn"], Layout.uniform, [], "llama"),
    "mistral": (lambda: causal("mistral", sliding_window=32), BOTH, Layout.uniform, [], "llama"),
    "qwen2": (lambda: causal("qwen2"), ["ffn"], Layout.uniform, [0], "qwen2"),
    "qwen2 with fewer heads": (lambda: causal("qwen2"), BOTH, Layout.uniform, [], "deci"),
    "qwen3": (lambda: causal("qwen3"), BOTH, Layout.uniform, [0], "qwen3"),
    "gemma2": (lambda: gemma("gemma2"), BOTH, Layout.uniform, [], "gemma2"),
    "gemma3": (lambda: gemma("gemma3_text"), BOTH, Layout.uniform, [], "gemma3"),
    "gemma3 linear": (lambda: gemma("gemma3_text", rope_parameters=TWO), ["ffn"], Layout.uniform, [], "gemma3"),
    "unequal llama": (lambda: deep("llama"), BOTH, UNEQUAL, [], "deci"),
    "unequal llama 3": (lambda: deep("llama", rope_parameters=LLAMA3), BOTH, UNEQUAL, [], "deci"),
    "unequal linear": (lambda: deep("llama", rope_parameters=LINEAR), ["ffn"], UNEQUAL, [], "deci"),
    "unequal biases": (lambda: deep("llama", head_dim=4, **BIASES), ["ffn"], UNEQUAL, [], "deci"),
    "unequal mistral": (lambda: deep("mistral"), BOTH, UNEQUAL, [], "deci"),
    "unequal qwen2": (lambda: deep("qwen2"), BOTH, UNEQUAL, [], "deci"),
    "unequal qwen3": (lambda: deep("qwen3", tie_word_embeddings=True), BOTH, UNEQUAL, [], "openelm"),
}


@pytest.fixture(autouse=True)
def with_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with_packages(monkeypatch, CYLLAMA)
    with verifying_here():
        yield


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_computes_what_the_checkpoint_computes(name: str, tmp_path: Path) -> None:
    make, units, layout, gone, architecture = FILES[name]
    source = slim_source(tmp_path, make(), units, layout, gone=gone, formats=["gguf"], gguf_types=["f32"])
    (tmp_path / "model-gguf").mkdir()
    export = gguf_export.export(source, tmp_path / "model-gguf")
    assert export.architecture == architecture
    assert export.checked_by == "llama.cpp (cyllama 0.2.18)"
    if architecture in gguf_reference.ARCHITECTURES:
        questions = questions_of(source)
        file = gguf_reference.GgufModel(tmp_path / export.files[0].name)
        found = [decoder_reference.logits(file, tokens) for tokens in questions.tokens]
        assert questions.difference(found) <= 1e-4 * questions.greatest
        assert not torch.equal(found[0], questions.logits[0])


def byte_level(*steps: pre_tokenizers.PreTokenizer, whole: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer that knows every byte; with `whole` a word that is a token stays whole."""
    tokenizer = Tokenizer(BPE(ignore_merges=whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"])
    tokenizer.train_from_iterator([*TEXTS, *CORPUS], trainer)
    return tokenizer


def sentencepiece(directory: Path, **settings: Any) -> Tokenizer:
    """A BPE tokenizer of SentencePiece, as transformers converts it."""
    (directory / "corpus.txt").write_text("\n".join([*CORPUS, *TEXTS]))
    SentencePieceTrainer.train(
        input=str(directory / "corpus.txt"),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )
    converted: Tokenizer = LlamaTokenizer.from_pretrained(directory, **settings).backend_tokenizer
    return converted


def by_regex(pattern: str, whole: bool, directory: Path) -> Tokenizer:
    """A tokenizer that splits texts by a regular expression."""
    return byte_level(pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES, whole=whole)


VOCABULARY = 400
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
TOKENIZERS: dict[str, Callable[[Path], Tokenizer]] = {
    "gpt-2": lambda directory: byte_level(WORDS),
    "smollm": lambda directory: byte_level(pre_tokenizers.Digits(individual_digits=True), WORDS),
    "sentencepiece": sentencepiece,
    **{
        pre: partial(by_regex, steps[0], whole) for (steps, whole), pre in PRE_TOKENIZERS.items() if BYTES_STEP in steps
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_splits_texts_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    source = slim_source(tmp_path, causal("llama", vocab_size=VOCABULARY), ["ffn"], formats=["gguf"])
    TOKENIZERS[name](tmp_path).save(str(source.checkpoint / "tokenizer.json"))
    (tmp_path / "model-gguf").mkdir()
    export = gguf_export.export(source, tmp_path / "model-gguf")  # raises where tokens differ
    assert export.checked_by == "llama.cpp (cyllama 0.2.18)"
    assert len(questions_of(source).texts) >= len(TEXTS)


def test_the_demo_prints_how_fast_llama_cpp_writes(tmp_path: Path) -> None:
    make, units, layout, gone, _ = FILES["unequal llama"]
    source = slim_source(tmp_path, make(), units, layout, gone=gone, formats=["gguf"])
    (tmp_path / "model-gguf").mkdir()
    export = gguf_export.export(source, tmp_path / "model-gguf")
    found = re.fullmatch(
        r"llama.cpp writes (\d+) tokens a second with it, on one core.", speed(tmp_path / export.files[0].name)
    )
    assert found is not None
    assert int(found[1]) > 0


def test_llama_cpp_writes_k_quants(tmp_path: Path) -> None:
    model = causal("llama", hidden_size=256, intermediate_size=320, head_dim=64)
    types = ["q8_0", "q6_k", "q5_k_m", "q4_k_m"]
    source = slim_source(tmp_path, model, ["ffn"], formats=["gguf"], gguf_types=types)
    (tmp_path / "model-gguf").mkdir()
    export = gguf_export.export(source, tmp_path / "model-gguf")
    assert [file.dtype for file in export.files] == types
    assert [file.bytes for file in export.files] == sorted((file.bytes for file in export.files), reverse=True)
    differences = [file.max_abs_logit_difference or 0 for file in export.files]
    assert export.tolerance < differences[0] < differences[-1]
    path = tmp_path / export.files[-1].name
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1}
    assert {kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]} <= {"Q4_K", "Q6_K"}
    assert not export.notes
