"""The dtypes of a model's weights."""

from pathlib import Path

import pytest
import torch

from tests.support import checkpoints
from worker.checkpoints import dtypes
from worker.checkpoints.dtypes import cast_weights, computing_dtype, weight_dtypes
from worker.checkpoints.loading import load_model

CPU = torch.device("cpu")


def test_a_cpu_without_bfloat16_computes_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "model", device=CPU)
    assert set(weight_dtypes(loaded.model).values()) == {torch.float32}
    assert loaded.dtype is torch.bfloat16


def test_casting_leaves_rotary_frequencies_unchanged(directory: Path) -> None:
    model = load_model(directory, device=CPU).model
    frequencies = dict(model.named_buffers())["model.rotary_emb.inv_freq"].clone()
    cast_weights(model, torch.bfloat16)
    assert torch.equal(dict(model.named_buffers())["model.rotary_emb.inv_freq"], frequencies)


@pytest.mark.parametrize(
    ("stored", "device", "family", "computed"),
    [
        (torch.float16, "cuda", "t5", torch.float32),
        (torch.float16, "cuda", "gemma2", torch.float32),
        (torch.float16, "cuda", "llama", torch.float16),
        (torch.bfloat16, "cuda", "t5", torch.bfloat16),
        (torch.float16, "cpu", "llama", torch.float32),
        (torch.bfloat16, "cpu", "llama", torch.bfloat16),
    ],
)
def test_half_precision_is_left_where_it_overflows(
    monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, device: str, family: str, computed: torch.dtype
) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    assert computing_dtype(stored, device, family) is computed
