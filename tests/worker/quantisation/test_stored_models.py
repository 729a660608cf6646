"""Stored quantised models, loaded by their libraries: they compute what is computed with the numbers they stand for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from service.contract.options import Layout, Precision
from service.exports.precisions import group_size
from tests.support.batches import batches, examples
from tests.support.exports import slim_source, with_packages
from tests.support.tiny_models import causal, classifier, encoder_decoder, inputs_of
from worker.checkpoints.loading import load_model
from worker.checkpoints.verification import Probe, probe_of
from worker.quantisation import files, verification
from worker.quantisation.computing import computing_with
from worker.quantisation.layers import linear_modules
from worker.quantisation.precisions import PRECISIONS
from worker.quantisation.rounding import quantised_weights, tensor_bytes
from worker.quantisation.weights import QuantisedWeight
from worker.slimming.architectures import architecture_of
from worker.slimming.scoring.objectives import Batch

TORCHAO = ("torchao==0.18.0",)
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}


def stored(directory: Path, model: PreTrainedModel, precision: Precision, layout: Layout, rows: list[Batch]) -> Path:
    """Slim a model by a unit whose sizes the precision takes, and write it quantised, with its probes beside it.

    The directory of the quantised checkpoint.
    """
    units = ["heads"] if PRECISIONS[precision].grouped else ["ffn"]
    source = slim_source(directory, model, units, layout)
    loaded, traits = load_model(source.checkpoint, device=torch.device("cpu")), PRECISIONS[precision]
    architecture = architecture_of(loaded.model)
    modules = linear_modules(loaded.model, architecture)
    size = group_size(module.in_features for module in modules.values()) if traits.grouped else None
    found = quantised_weights(loaded.model, architecture, precision, size, loaded.dtype, rows, lambda done, total: None)
    linear = [name for name, module in loaded.model.named_modules() if isinstance(module, torch.nn.Linear)]
    files.write(
        source.checkpoint,
        directory / precision,
        found,
        traits.storage,
        loaded.dtype,
        group_size=size,
        ignored=[name for name in linear if name not in modules],
    )
    for bits in dict.fromkeys((None, traits.activation_bits)):
        with computing_with(loaded.model, found, activation_bits=bits, dtype=torch.float32):
            probe_of(loaded, inputs_of(loaded.model)).write(directory / f"{bits}.safetensors")
    check_size(directory / precision, loaded.model, found, precision, loaded.dtype)
    return directory / precision


def check_size(
    directory: Path,
    model: PreTrainedModel,
    weights: dict[str, QuantisedWeight],
    precision: Precision,
    dtype: torch.dtype,
) -> None:
    """Check that the size that reports state is that of the tensors in the file."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        size = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118 - not a mapping
    assert tensor_bytes(model, weights, PRECISIONS[precision], dtype) == size


def check(directory: Path, *, activations: bool = False) -> verification.Compared:
    """Compare the checkpoint with its probes, in this process."""
    names = ["None", "8"] if activations else ["None"]
    probes = [Probe.read(directory.parent / f"{name}.safetensors") for name in names]
    found = verification.compare(directory, *probes)
    greatest = probes[0].logits.abs().max().item()
    assert found.weights <= verification.TOLERANCE * greatest
    assert (found.activations or 0.0) <= verification.TOLERANCE_WITH_ACTIVATIONS * greatest
    return found


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_w8a8_is_loaded_by_compressed_tensors(family: str, layout: Layout, tmp_path: Path) -> None:
    found = check(stored(tmp_path, causal(family), Precision.w8a8, layout, []), activations=True)
    assert found.loader.endswith(", compressed-tensors")
    assert found.activations is not None


@pytest.mark.parametrize("layout", Layout)
def test_w4a16_is_loaded_by_compressed_tensors(layout: Layout, tmp_path: Path) -> None:
    model = causal("llama", **WIDE)
    source = stored(tmp_path, model, Precision.w4a16, layout, batches("llama", examples(8), 4))
    assert check(source).loader.endswith(", compressed-tensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (lambda: causal("llama"), Layout.uniform),
        (lambda: causal("llama"), Layout.per_layer),
        (lambda: causal("gemma3_text"), Layout.uniform),
        (lambda: causal("phi3"), Layout.uniform),
        (lambda: classifier("bert"), Layout.uniform),
        (lambda: encoder_decoder("t5"), Layout.uniform),
    ],
)
def test_int8_is_loaded_by_torchao(make: Any, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_packages(monkeypatch, TORCHAO)
    assert check(stored(tmp_path, make(), Precision.int8, layout, [])).loader.endswith(", torchao")
