"""Slim checkpoints in the software that users load them with, and GGUF files in llama.cpp: the logits are equal.

Each of these packages is installed into a directory of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel

from service.contract.options import Layout, Unit
from service.contract.request.task import ModelSource
from service.models.families.family import AUTO_CLASSES
from service.models.families.table import FAMILIES
from tests.support import checkpoints
from tests.support.foreign_packages import installed, run_with
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import TINY, causal, changed, encoder_decoder, family_of_model, inputs_of, t5gemma
from tests.worker.sources.test_gguf import FILES, LLAMA3, PHI3_ROPE, SHORT
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import take_probe
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import select
from worker.slimming.units.locating import locate
from worker.sources.fetching import fetch_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TEXT = "a good film<s> and the quick brown fox"
ROPE = {"rope_type": "default", "rope_theta": 500.0}
PARTIAL = ROPE | {"partial_rotary_factor": 0.5}
ALPHA = ROPE | {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}

OLDER_TRANSFORMERS = """
import json, sys
import torch, transformers
from safetensors.torch import load_file, save_file
assert transformers.__version__.startswith("4.57.")
for line in sys.stdin.read().splitlines():
    auto, directory, text = line.split("\\t")
    model = getattr(transformers, auto).from_pretrained(directory).eval()
    with torch.inference_mode():
        logits = model(**load_file(directory + "/probe/inputs")).logits.contiguous()
    tokens = transformers.AutoTokenizer.from_pretrained(directory)(text).input_ids
    save_file({"logits": logits, "tokens": torch.tensor(tokens)}, directory + "/probe/answer")
"""
MLX = """
import sys
from pathlib import Path
import mlx.core as mx
from mlx_lm.utils import load_model
mx.set_default_device(mx.cpu)
for directory in sys.stdin.read().splitlines():
    model, _ = load_model(Path(directory))
    inputs = mx.load(directory + "/probe/inputs", format="safetensors")
    mx.save_safetensors(directory + "/probe/answer.safetensors", {"logits": model(inputs["input_ids"])})
    Path(directory + "/probe/answer.safetensors").rename(directory + "/probe/answer")
"""
# cyllama computes the logits of the first of the tokens that it is asked for: each token is decoded alone.
LLAMA_CPP = """
import sys
import numpy as np
from cyllama.llama import llama_cpp
from safetensors.numpy import load_file, save_file
class Model(llama_cpp.LlamaModel):
    n_vocab = 128
for line in sys.stdin.read().splitlines():
    parameters = llama_cpp.LlamaModelParams()
    parameters.n_gpu_layers, parameters.use_mmap = 0, False
    model = Model(line, parameters, False)
    settings = llama_cpp.LlamaContextParams()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
    settings.type_k, settings.type_v, settings.flash_attn_type = 0, 0, 0
    context, logits = llama_cpp.LlamaContext(model, settings, False), []
    for position, token in enumerate(load_file(line + ".inputs")["input_ids"][0]):
        batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.add(int(token), position, [0], True)
        context.decode(batch)
        logits.append(np.array(context.get_logits(), dtype=np.float32))
    save_file({"logits": np.stack(logits)}, line + ".answer")
"""
BITS_AND_BYTES = """
import sys
import bitsandbytes as bnb
import torch, transformers
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig
for line in sys.stdin.read().splitlines():
    auto, plain, directory, bits, kind, nested = line.split("\\t")
    how = {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": bool(nested)} if kind else {}
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, **how)
    model = getattr(transformers, auto).from_pretrained(plain, quantization_config=how, dtype=torch.float32)
    model.save_pretrained(directory)
    dense = {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            dense[name + ".weight"] = bnb.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
        elif isinstance(module, bnb.nn.Linear4bit):
            dense[name + ".weight"] = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    save_file({name: weight.contiguous() for name, weight in dense.items()}, directory + "/dense")
"""


def write_slim(directory: Path, model: PreTrainedModel, units: Sequence[str], *, gone: Sequence[int] = ()) -> str:
    """Slim a model to about half of these units, and write beside it a probe and the logits of the masked dense model.

    `gone` are the layers that are removed, if any.
    """
    family = FAMILIES[model.config.model_type]
    model.save_pretrained(directory / "dense")
    checkpoints.tokenizer(family.kind).save_pretrained(directory / "dense")
    loaded = load_model(directory / "dense", device=torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    groups = locate(loaded.model, ARCHITECTURES[family.model_type], units)
    kept = dict(select({group.site: torch.rand(group.count, generator=draw) for group in groups}, groups, 0.4, 8))
    for group in locate(loaded.model, ARCHITECTURES[family.model_type], ["layers"] if gone else []):
        kept[group.site] = torch.arange(0 if group.site.layer in gone else 1)
    probe = take_probe(loaded, kept, inputs_of(loaded.model))
    save_model(make_slim(loaded, kept, Layout.uniform), directory / "slim")
    (directory / "slim/probe").mkdir()
    save_file(dict(probe.inputs), directory / "slim/probe/inputs")
    save_file({"logits": probe.logits}, directory / "slim/probe/expected")
    return str(directory / "slim")


def compare(directory: str) -> dict[str, Any]:
    """Assert that the answer has the expected logits; all tensors of the answer."""
    answer, expected = (load_file(f"{directory}/probe/{name}") for name in ("answer", "expected"))
    greatest = expected["logits"].abs().max()
    assert (answer["logits"] - expected["logits"]).abs().max() <= 1e-4 * greatest, directory
    return answer


def with_own_head(family: str, **settings: Any) -> PreTrainedModel:
    """A T5 whose head is no copy of the embedding, as in T5 v1.1 and mT5."""
    model = encoder_decoder(family, **settings)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 0.1)
    return model


NOT_IN_TRANSFORMERS_4 = ("ministral3", "qwen3_5_text", "gemma4_text", "gemma4_text_shared")
OTHERWISE_BELOW = ("t5_gated", "mt5", "t5gemma")
IN_LAYERS = [unit for unit in Unit if unit not in (Unit.layers, Unit.vocabulary)]
OLD_READERS = {name: TINY[name] for name in TINY if name not in OTHERWISE_BELOW + NOT_IN_TRANSFORMERS_4} | {
    "llama 3": lambda: causal("llama", rope_parameters=LLAMA3),
    "qwen2 with another theta": lambda: causal("qwen2", rope_parameters=ROPE),
    "gpt_neox with another theta": lambda: causal("gpt_neox", rope_parameters=ROPE | {"partial_rotary_factor": 0.5}),
    "flan-t5": lambda: with_own_head("t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda: with_own_head("mt5"),
    "t5gemma": lambda: t5gemma(window=4096),  # version 4 counts the tokens of a window in another way
}


def test_transformers_4_loads_slim_checkpoints_and_tokenizers(tmp_path: Path) -> None:
    packages = installed("transformers==4.57.6", "huggingface-hub==0.36.2", "tokenizers==0.22.2")
    lines = {}
    for name, make in OLD_READERS.items():
        model = make()
        family = family_of_model(model)
        directory = write_slim(tmp_path / name, model, [unit for unit in family.units if unit in IN_LAYERS])
        lines[directory] = f"{AUTO_CLASSES[family.kind]}\t{directory}\t{TEXT}"
    run_with(packages, OLDER_TRANSFORMERS, *lines.values())
    for directory in lines:
        answer = compare(directory)
        assert answer["tokens"].tolist() == AutoTokenizer.from_pretrained(directory)(TEXT).input_ids


MLX_MODELS: dict[str, tuple[Any, list[str], list[int]]] = {
    "llama": (lambda: causal("llama", rope_parameters=ROPE), ["ffn"], []),
    "llama 3": (lambda: causal("llama", rope_parameters=LLAMA3), ["ffn", "heads"], []),
    "linear": (lambda: causal("llama", rope_parameters=ROPE | {"rope_type": "linear", "factor": 4.0}), ["ffn"], []),
    "mistral": (lambda: causal("mistral", rope_parameters=ROPE), ["ffn", "heads"], []),
    "qwen2": (lambda: causal("qwen2", rope_parameters=ROPE), ["ffn"], [0]),
    "qwen3": (lambda: causal("qwen3", rope_parameters=ROPE), ["ffn", "heads"], []),
    "gemma2": (lambda: causal("gemma2", rope_parameters=ROPE), ["ffn", "heads"], []),
    "gemma3": (lambda: causal("gemma3_text", num_hidden_layers=8), ["ffn", "heads"], [6, 7]),
    "phi3": (lambda: causal("phi3", rope_parameters=ROPE), ["ffn"], []),
    "olmo2": (lambda: causal("olmo2", rope_parameters=ROPE), ["ffn"], []),
    "olmo3": (TINY["olmo3"], ["ffn"], []),
    "smollm3": (TINY["smollm3"], ["ffn", "heads"], []),
    "smollm3 without a layer": (lambda: causal("smollm3", rope_parameters=ROPE, no_rope_layers=[1, 0]), ["ffn"], [0]),
    "ministral3": (TINY["ministral3"], ["ffn", "heads"], [0]),
    "granite": (TINY["granite"], ["ffn"], [0]),
    "gemma": (lambda: causal("gemma", rope_parameters=ROPE), ["ffn", "heads"], [0]),
    "glm4": (lambda: causal("glm4", rope_parameters=PARTIAL), ["ffn", "heads"], [0]),
    # mlx-lm computes the exact gelu for it, whichever config.json names.
    "starcoder2": (lambda: causal("starcoder2", head_dim=None, hidden_act="gelu"), ["ffn"], []),
    "nemotron": (lambda: causal("nemotron", rope_parameters=PARTIAL, mlp_bias=True), ["ffn", "heads"], [0]),
    "seed_oss": (TINY["seed_oss"], ["ffn", "heads"], [0]),
    "hunyuan": (lambda: causal("hunyuan_v1_dense", rope_parameters=ALPHA), ["ffn", "heads"], [0]),
    "ernie4_5": (TINY["ernie4_5"], ["ffn", "heads"], [0]),
}


def test_mlx_lm_loads_what_is_promised(tmp_path: Path) -> None:
    packages = installed("mlx-cpu==0.32.4", "mlx==0.32.4", "mlx-lm==0.32.2")
    directories = [
        write_slim(tmp_path / name, make(), units, gone=gone) for name, (make, units, gone) in MLX_MODELS.items()
    ]
    run_with(packages, MLX, *directories)
    for directory in directories:
        compare(directory)


def test_llama_cpp_computes_from_gguf_files_what_their_conversion_is_compared_with(tmp_path: Path) -> None:
    packages = installed("cyllama==0.2.18")
    within = PHI3_ROPE | {"attention_factor": 1.0540926}  # llama.cpp takes the short factors where its context is short
    files = FILES | {
        "phi3 within its first length": (
            lambda: causal(
                "phi3", rope_parameters=within, original_max_position_embeddings=512, max_position_embeddings=1024
            ),
            {"rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.0540926},
            {
                "rope_factors_long.weight": torch.tensor(PHI3_ROPE["long_factor"]),
                "rope_factors_short.weight": torch.tensor(SHORT),
            },
        )
    }
    inputs, expected = torch.arange(4, 54).view(1, 50) % 100 + 4, {}
    for name, (make, metadata, tensors) in files.items():
        model = make()
        path = str(write_gguf(tmp_path / f"{name}.gguf", model, metadata, tensors))
        save_file({"input_ids": inputs}, path + ".inputs")
        with torch.inference_mode():
            expected[path] = model(inputs).logits[0]
    run_with(packages, LLAMA_CPP, *expected)
    for path, logits in expected.items():
        answer = load_file(path + ".answer")["logits"]
        exact = not any(family in path for family in ("gemma", "gpt2"))  # its gelu comes from a table in half precision
        assert (answer - logits).abs().max() < (1e-5 if exact else 3e-3), path


# The rows of its weights are multiples of 64 long: bitsandbytes 0.50 computes others wrongly on a CPU with AVX-512.
LONG_ROWS: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gemma3_text": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_inner": 128},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16},
}


def test_bitsandbytes_dequantises_to_the_same_weights(tmp_path: Path) -> None:
    packages = installed("bitsandbytes==0.50.2")
    ways = {"int8": ("8", "", ""), "nf4": ("4", "nf4", ""), "fp4": ("4", "fp4", ""), "nested": ("4", "nf4", "nested")}
    lines = {}
    for family, settings in LONG_ROWS.items():
        plain = tmp_path / family / "plain"
        changed(family, **settings).save_pretrained(plain)
        for name, way in ways.items():
            directory = tmp_path / family / name
            lines[directory] = "\t".join((FAMILIES[family].auto_class, str(plain), str(directory), *way))
    run_with(packages, BITS_AND_BYTES, *lines.values())
    for directory in lines:
        family = directory.parent.name
        checkpoints.tokenizer(FAMILIES[family].kind).save_pretrained(directory)
        source, scratch = ModelSource(uri=directory.as_uri()), directory / "scratch"
        fetched = fetch_model(source, scratch=scratch, cache=scratch)
        weights = load_model(fetched.directory, device=torch.device("cpu")).model.state_dict()
        library = load_file(directory / "dense")
        assert len(library) > 3
        for path, weight in library.items():
            expected = weight.T if family == "gpt2" else weight
            torch.testing.assert_close(weights[path], expected, rtol=1e-6, atol=0)
